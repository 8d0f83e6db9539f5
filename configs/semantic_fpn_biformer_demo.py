# Semantic FPN, narrow, on generated data: make demo TASK=semantic_fpn
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/biformer_demo.py',
    './_base_/demo_ade20k.py',
    './_base_/demo_schedule.py',
]

data_preprocessor = dict(size=(96, 96))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(_delete_=True, num_regions=3, topks=(1, 4, 8, None), **_base_.biformer),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, dropout_ratio=0.0, num_classes=5),
)

auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10), visualization=dict(type='SegVisualizationHook')
)
log_processor = dict(by_epoch=True)
randomness = dict(seed=0)
