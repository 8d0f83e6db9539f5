# Multi-scale training for 36 epochs, Swin's schedule.
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py', './_base_/biformer_det.py']

model = dict(
    backbone=dict(_delete_=True, **_base_.biformer), neck=dict(in_channels=[64, 128, 256, 512])
)

optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0))
