"""What mmpretrain's tools do, ours do."""

import pytest
from differential.running import Case

pytestmark = pytest.mark.slow

DEMO = 'biformer_demo.py'
MULTI_LABEL = """
        train = dict(
            type='MultiLabelDataset', ann_file='train.json', data_prefix='')
        val = dict(train, ann_file='val.json')
        model = dict(
            head=dict(
                _delete_=True,
                type='MultiLabelLinearClsHead',
                num_classes=4,
                in_channels=256))
        train_dataloader = dict(dataset=train)
        val_dataloader = dict(dataset=val)
        test_dataloader = val_dataloader
        val_evaluator = [
            dict(type='MultiLabelMetric'),
            dict(type='AveragePrecision')
        ]
        test_evaluator = val_evaluator
        data_preprocessor = dict(to_onehot=True)
"""
CASES = [
    # mmpretrain's, as they are and with BiFormer.
    Case(
        'swin',
        'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        """
        model = dict(
            backbone=dict(
                pad_small_map=True,
                arch=dict(
                    _delete_=True,
                    embed_dims=48,
                    depths=[1, 1, 2, 1],
                    num_heads=[1, 2, 4, 8])),
            head=dict(in_channels=384))
        """,
    ),
    Case(
        'convnext',
        'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
        """
        model = dict(
            backbone=dict(
                arch=dict(
                    _delete_=True,
                    depths=[1, 1, 1, 1], channels=[32, 64, 128, 256])),
            head=dict(in_channels=256))
        """,
    ),
    Case('resnet', 'mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    Case(
        'resnet_schedule_biformer',
        'mmpretrain::resnet/resnet50_8xb32-mixup_in1k.py',
        """
        model = dict(
            backbone=dict(
                _delete_=True, out_indices=(3, ), **_base_.biformer),
            head=dict(in_channels=256))
        """,
    ),
    Case('multi_label', DEMO, MULTI_LABEL),
    Case(
        'retrieval_biformer',
        'mmpretrain::arcface/resnet50-arcface_8xb32_inshop.py',
        """
        model = dict(
            image_encoder=[
                dict(out_indices=(3, ), **_base_.biformer),
                dict(type='GlobalAveragePooling')
            ],
            head=dict(in_channels=256, num_classes=4),
            prototype=dict(
                batch_size=2, num_workers=0, persistent_workers=False))
        val_evaluator = [
            dict(type='RetrievalRecall', topk=1),
            dict(type='RetrievalAveragePrecision', topk=2)
        ]
        test_evaluator = val_evaluator
        """,
    ),
    # Data.
    Case(
        'k_fold',
        DEMO,
        """
        fold = dict(
            _delete_=True,
            type='KFoldDataset',
            num_splits=2,
            seed=0,
            dataset=_base_.train_dataloader.dataset)
        train_dataloader = dict(dataset=dict(fold, fold=0, test_mode=False))
        val_dataloader = dict(dataset=dict(fold, fold=0, test_mode=True))
        test_dataloader = val_dataloader
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
        'concat_repeat',
        DEMO,
        """
        train_dataloader = dict(
            dataset=dict(
                _delete_=True,
                type='ConcatDataset',
                datasets=[
                    _base_.train_dataloader.dataset,
                    dict(
                        type='RepeatDataset',
                        times=2,
                        dataset=_base_.train_dataloader.dataset)
                ]))
        """,
    ),
    Case(
        'batch_augmentations',
        DEMO,
        """
        model = dict(
            train_cfg=dict(
                augments=[
                    dict(type='Mixup', alpha=0.8),
                    dict(type='CutMix', alpha=1.0)
                ]))
        """,
    ),
    # Evaluation, hooks, and what the runner has beside.
    Case(
        'several_metrics',
        DEMO,
        """
        val_evaluator = [
            dict(type='Accuracy', topk=(1, 2)),
            dict(type='SingleLabelMetric', items=['precision', 'recall']),
            dict(type='ConfusionMatrix')
        ]
        test_evaluator = val_evaluator
        """,
    ),
    Case('tta', DEMO, test_args=['--tta']),
    Case(
        'averages_of_mmpretrain',
        DEMO,
        """
        custom_hooks = [
            *_base_.custom_hooks,
            dict(type='EMAHook', momentum=0.1, priority='ABOVE_NORMAL')
        ]
        """,
    ),
    # The default backend, inductor, takes minutes on a CPU.
    Case('compiled', DEMO, "compile = dict(backend='aot_eager')", limit=900),
]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_case(check, case):
    check(case._replace(framework='mmpretrain'))
