"""What mmdet's tools do, ours do."""

import pytest
from differential.running import Case

pytestmark = pytest.mark.slow

DEMO = 'retinanet_biformer_demo.py'
BIFORMER = """
        pyramid = dict(
            _delete_=True,
            out_indices=(1, 2, 3),
            norm_eval=True,
            **_base_.biformer)
"""
FEW_QUERIES = """
        model = dict(
            num_queries=20,
            encoder=dict(num_layers=1),
            decoder=dict(num_layers=2),
            dn_cfg=dict(group_cfg=dict(num_dn_queries=10)))
"""
EPOCHS = """
        train_cfg = dict(max_epochs=4, val_interval=1)
        default_hooks = dict(checkpoint=dict(interval=1))
"""
MILESTONE = """
        param_scheduler = dict(
            _delete_=True, type='MultiStepLR', milestones=[1], end=2)
"""
CASES = [
    # Our recipes.
    Case('mask_rcnn', 'mask_rcnn_biformer_s_1x.py'),
    Case('mask_rcnn_3x', 'mask_rcnn_biformer_s_3x_ms.py'),
    Case('cascade_mask_rcnn', 'cascade_mask_rcnn_biformer_s_3x_ms.py'),
    Case('dino', 'dino_biformer_s_1x.py', FEW_QUERIES),
    # mmdet's, as they are and with BiFormer.
    Case('rtmdet', 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
    Case(
        'rtmdet_biformer',
        'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        BIFORMER
        + """
        model = dict(backbone=pyramid, neck=dict(in_channels=[64, 128, 256]))
        """,
    ),
    # Mosaic and MixUp of MultiImageMixDataset.
    Case('yolox', 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'),
    Case(
        'yolox_biformer',
        'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
        BIFORMER
        + """
        model = dict(backbone=pyramid, neck=dict(in_channels=[64, 128, 256]))
        """,
    ),
    Case('faster_rcnn', 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
    Case(
        'faster_rcnn_biformer',
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        """
        model = dict(
            backbone=dict(_delete_=True, **_base_.biformer),
            neck=dict(in_channels=[32, 64, 128, 256]))
        """,
    ),
    Case(
        'deformable_detr',
        'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        """
        model = dict(
            num_queries=20,
            encoder=dict(num_layers=1),
            decoder=dict(num_layers=2))
        """,
    ),
    Case(
        'deformable_detr_biformer',
        'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        BIFORMER
        + """
        model = dict(
            num_queries=20,
            encoder=dict(num_layers=1),
            decoder=dict(num_layers=2),
            backbone=pyramid,
            neck=dict(in_channels=[64, 128, 256]))
        """,
    ),
    Case(
        'point_rend_biformer',
        'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
        """
        model = dict(
            backbone=dict(_delete_=True, **_base_.biformer),
            neck=dict(in_channels=[32, 64, 128, 256]))
        """,
    ),
    Case(
        'soft_teacher_biformer',
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
        """
        train_dataloader = dict(
            sampler=dict(batch_size=2, source_ratio=[1, 1]))
        model = dict(
            detector=dict(
                backbone=dict(_delete_=True, **_base_.biformer),
                neck=dict(in_channels=[32, 64, 128, 256])))
        """,
    ),
    # Data.
    Case(
        'repeat',
        DEMO,
        """
        train_dataloader = dict(
            dataset=dict(
                _delete_=True,
                type='RepeatDataset',
                times=2,
                dataset=_base_.train_dataloader.dataset))
        """,
    ),
    Case(
        'concat',
        DEMO,
        """
        train_dataloader = dict(
            dataset=dict(
                _delete_=True,
                type='ConcatDataset',
                datasets=[
                    _base_.train_dataloader.dataset,
                    dict(
                        _base_.val_dataloader.dataset,
                        test_mode=False,
                        pipeline=_base_.train_dataloader.dataset.pipeline)
                ]))
        """,
    ),
    Case(
        'class_balanced',
        DEMO,
        """
        train_dataloader = dict(
            dataset=dict(
                _delete_=True,
                type='ClassBalancedDataset',
                oversample_thr=0.9,
                dataset=_base_.train_dataloader.dataset))
        """,
    ),
    Case(
        'class_aware_sampler',
        DEMO,
        """
        train_dataloader = dict(
            sampler=dict(
                _delete_=True, type='ClassAwareSampler', num_sample_class=1))
        """,
    ),
    Case(
        'workers',
        DEMO,
        """
        train_dataloader = dict(num_workers=2, persistent_workers=True)
        val_dataloader = dict(num_workers=1, persistent_workers=True)
        test_dataloader = dict(num_workers=1, persistent_workers=True)
        """,
    ),
    Case(
        'iterations_infinite_sampler',
        DEMO,
        """
        train_cfg = dict(
            _delete_=True,
            type='IterBasedTrainLoop',
            max_iters=4,
            val_interval=2)
        train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
        param_scheduler = dict(
            _delete_=True,
            type='MultiStepLR',
            by_epoch=False,
            milestones=[2])
        default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
        log_processor = dict(by_epoch=False)
        """,
    ),
    # Evaluation.
    Case(
        'no_validation',
        DEMO,
        """
        val_dataloader = None
        val_cfg = None
        val_evaluator = None
        """,
    ),
    Case(
        'evaluators_as_list',
        DEMO,
        """
        val_evaluator = [
            dict(_base_.val_evaluator),
            dict(type='VOCMetric', metric='mAP', eval_mode='11points')
        ]
        test_evaluator = val_evaluator
        """,
    ),
    Case(
        'several_metrics',
        'mask_rcnn_biformer_demo.py',
        """
        val_evaluator = dict(metric=['bbox', 'segm', 'proposal'])
        test_evaluator = val_evaluator
        """,
    ),
    Case(
        'format_only',
        DEMO,
        """
        test_evaluator = dict(
            format_only=True, outfile_prefix='test_work/results')
        """,
    ),
    Case('tta', DEMO, test_args=['--tta']),
    # Ours refuses them on purpose: theirs warns, and evaluates a model of which
    # a part has its first weights.
    Case(
        'weights_that_do_not_fit',
        DEMO,
        test_args=['--cfg-options', 'model.bbox_head.stacked_convs=3'],
        test_fails=(None, "does not fit the config's model"),
    ),
    # Schedules and hooks.
    Case(
        'early_stopping',
        DEMO,
        EPOCHS
        + """
        custom_hooks = [
            *_base_.custom_hooks,
            dict(
                type='EarlyStoppingHook',
                monitor='coco/bbox_mAP',
                patience=1,
                min_delta=1.)
        ]
        """,
    ),
    Case(
        'save_best',
        DEMO,
        EPOCHS
        + """
        default_hooks = dict(
            checkpoint=dict(interval=1, save_best='auto', max_keep_ckpts=1))
        """,
    ),
    Case(
        'reduce_on_plateau',
        DEMO,
        EPOCHS
        + """
        param_scheduler = dict(
            _delete_=True,
            type='ReduceOnPlateauLR',
            monitor='coco/bbox_mAP',
            rule='greater',
            patience=1)
        """,
    ),
    Case(
        'custom_keys',
        DEMO,
        """
        optim_wrapper = dict(
            paramwise_cfg=dict(
                custom_keys=dict(
                    backbone=dict(lr_mult=0.1), norm=dict(decay_mult=0.))))
        """,
    ),
    Case(
        'tensorboard',
        DEMO,
        """
        visualizer = dict(
            vis_backends=[
                dict(type='LocalVisBackend'),
                dict(type='TensorboardVisBackend')
            ])
        """,
    ),
    Case('load_from', DEMO, "load_from = 'work/epoch_2.pth'", before=''),
    # The same schedule in both runs: with another one, ours follows the
    # config on purpose (docs/faults.md), theirs the checkpoint.
    Case(
        'resume_in_config',
        DEMO,
        MILESTONE
        + """
        resume = True
        """,
        before=MILESTONE
        + """
        train_cfg = dict(max_epochs=1, val_interval=1)
        default_hooks = dict(checkpoint=dict(interval=1))
        """,
    ),
]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_case(check, case):
    check(case._replace(framework='mmdet'))
