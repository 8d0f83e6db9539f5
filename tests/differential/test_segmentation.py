"""What mmseg's tools do, ours do."""

import pytest
from differential.running import Case

pytestmark = pytest.mark.slow

DEMO = 'semantic_fpn_biformer_demo.py'
CASES = [
    # Our recipes.
    Case('upernet', 'upernet_biformer_s_160k.py'),
    Case(
        'mask2former',
        'mask2former_biformer_s_160k.py',
        """
        model = dict(
            decode_head=dict(
                num_queries=10,
                pixel_decoder=dict(encoder=dict(num_layers=1)),
                transformer_decoder=dict(num_layers=3)))
        """,
    ),
    # mmseg's, as they are and with BiFormer.
    Case('segformer', 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'),
    Case(
        'segformer_biformer',
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        """
        model = dict(
            backbone=dict(_delete_=True, **_base_.biformer),
            decode_head=dict(in_channels=[32, 64, 128, 256]))
        """,
    ),
    Case('deeplabv3plus', 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case(
        'deeplabv3plus_biformer',
        'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py',
        """
        model = dict(
            backbone=dict(_delete_=True, **_base_.biformer),
            decode_head=dict(in_channels=256, c1_in_channels=32),
            auxiliary_head=dict(in_channels=128))
        """,
    ),
    Case(
        'knet_biformer',
        'mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py',
        """
        model = dict(
            backbone=dict(_delete_=True, **_base_.biformer),
            decode_head=dict(kernel_generate_head=dict(in_channels=256)),
            auxiliary_head=dict(in_channels=128))
        """,
    ),
    Case(
        'point_rend_biformer',
        'mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
        """
        model = dict(
            backbone=dict(_delete_=True, **_base_.biformer),
            neck=dict(in_channels=[32, 64, 128, 256]))
        """,
    ),
    # Heads, losses and samplers.
    Case(
        'auxiliary_heads_and_losses',
        DEMO,
        """
        fcn = dict(
            type='FCNHead',
            channels=16,
            num_convs=1,
            num_classes=5,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(
                type='CrossEntropyLoss', loss_weight=0.4))
        model = dict(
            auxiliary_head=[
                dict(fcn, in_channels=64, in_index=2),
                dict(fcn, in_channels=64, in_index=3)
            ],
            decode_head=dict(
                loss_decode=[
                    dict(type='CrossEntropyLoss', loss_name='loss_ce'),
                    dict(type='DiceLoss', loss_name='loss_dice')
                ]))
        """,
    ),
    Case(
        'ohem',
        DEMO,
        """
        model = dict(
            decode_head=dict(
                sampler=dict(
                    type='OHEMPixelSampler', thresh=0.7, min_kept=100)))
        """,
    ),
    Case(
        'slide',
        DEMO,
        """
        model = dict(
            test_cfg=dict(
                mode='slide', crop_size=(48, 48), stride=(32, 32)))
        """,
    ),
    # Data and evaluation.
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
        'multi_image_mix',
        DEMO,
        """
        first, second, *others = _base_.train_dataloader.dataset.pipeline
        train_dataloader = dict(
            dataset=dict(
                _delete_=True,
                type='MultiImageMixDataset',
                dataset=dict(
                    _base_.train_dataloader.dataset,
                    pipeline=[first, second]),
                pipeline=[
                    dict(type='RandomMosaic', prob=1., img_scale=(64, 64)),
                    dict(type='Resize', scale=(64, 64)), *others
                ]))
        """,
    ),
    Case(
        'evaluators_as_list',
        DEMO,
        """
        val_evaluator = [
            dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice', 'mFscore']),
            dict(type='IoUMetric', iou_metrics=['mIoU'], prefix='again')
        ]
        test_evaluator = val_evaluator
        """,
        out=False,
    ),  # which mmseg's test.py cannot with a list
    Case(
        'format_only',
        DEMO,
        """
        test_evaluator = dict(format_only=True, output_dir='results')
        """,
    ),
    Case('tta', 'semantic_fpn_biformer_s_80k.py', test_args=['--tta']),
    Case(
        'save_best',
        DEMO,
        """
        train_cfg = dict(max_epochs=4, val_interval=1)
        default_hooks = dict(
            checkpoint=dict(
                type='CheckpointHook', save_best='mIoU', max_keep_ckpts=1))
        """,
    ),
]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_case(check, case):
    check(case._replace(framework='mmseg'))
