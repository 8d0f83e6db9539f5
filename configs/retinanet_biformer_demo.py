# RetinaNet, narrow, on generated data: make demo
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/biformer_demo.py',
    './_base_/demo_coco.py',
    './_base_/demo_schedule.py',
]

norm_cfg = dict(type='GN', num_groups=8)  # trains faster from scratch
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(_delete_=True, num_regions=5, out_indices=(1, 2, 3), **_base_.biformer),
    neck=dict(
        in_channels=[64, 128, 256], out_channels=64, norm_cfg=norm_cfg, start_level=0, num_outs=3
    ),
    bbox_head=dict(
        num_classes=4,
        norm_cfg=norm_cfg,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(strides=[8, 16, 32]),
    ),
)

optim_wrapper = dict(optimizer=dict(lr=3e-3))
default_hooks = dict(logger=dict(interval=10), visualization=dict(score_thr=0.5))
randomness = dict(seed=0)
