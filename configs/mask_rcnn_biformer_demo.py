# Mask R-CNN, narrow, on generated data: make demo TASK=mask_rcnn
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/biformer_demo.py',
    './_base_/demo_coco.py',
    './_base_/demo_schedule.py',
]

norm_cfg = dict(type='GN', num_groups=8)  # trains faster from scratch
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(_delete_=True, num_regions=5, **_base_.biformer),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=48, norm_cfg=norm_cfg, num_outs=4),
    rpn_head=dict(
        in_channels=48, feat_channels=48, anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48, finest_scale=28),
        bbox_head=dict(in_channels=48, fc_out_channels=256, num_classes=4),
        mask_roi_extractor=dict(out_channels=48, finest_scale=28),
        mask_head=dict(num_convs=2, in_channels=48, conv_out_channels=48, num_classes=4),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=10), visualization=dict(score_thr=0.5))
randomness = dict(seed=0)
