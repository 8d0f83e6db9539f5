_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/biformer_det.py',
]

model = dict(
    # From stride 8 on, so that every output is used.
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.biformer),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)

optim_wrapper = dict(
    type='AmpOptimWrapper', optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4)
)
