# UperNet, narrow, on generated data: make demo TASK=upernet
_base_ = [
    'mmseg::_base_/models/upernet_swin.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/biformer_demo.py',
    './_base_/demo_ade20k.py',
    './_base_/demo_schedule.py',
]

data_preprocessor = dict(size=(96, 96))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(_delete_=True, num_regions=3, topks=(1, 4, 8, None), **_base_.biformer),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=64, dropout_ratio=0.0, num_classes=5),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=5),
)

auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10), visualization=dict(type='SegVisualizationHook')
)
log_processor = dict(by_epoch=True)
randomness = dict(seed=0)
