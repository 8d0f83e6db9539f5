_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    './shapes.py',
]
custom_imports = dict(imports=['biformer_mm'])
model = dict(
    backbone=dict(_delete_=True, type='BiFormer', arch='tiny', num_regions=8),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=dict(num_classes=4)),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4))
