# Cascade Mask R-CNN as Swin and ConvNeXt are evaluated with it: 4conv1fc heads,
# GIoU loss, multi-scale training for 36 epochs. Heads and schedule come from
# mmdet's config of ConvNeXt.
_base_ = (
    'mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'
)
custom_imports = dict(imports=['biformer_mm'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='BiFormer',
        arch='small',
        num_regions=16,
        drop_path_rate=0.2,
        norm_eval=True,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
