# One recipe for all networks of this folder, and one budget: what differs is the network.
_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['biformer_mm'], allow_failed_imports=False)

# FOLDER=... in the shell's environment is another folder: train/CLASS/*, test/CLASS/*.
data_root = '{{$FOLDER:data/cifar10}}'

model = dict(
    type='ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        init_cfg=None,  # the model's
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    # mmpretrain's TruncNormal has bounds of 100 deviations: it truncates nothing and puts single
    # weights of 2.0 there.
    init_cfg=[
        dict(type='Normal', layer='Linear', std=0.02, bias=0.0),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)

# 64 x 64 pixels make maps of 16, 8, 4 and 2 tokens a side.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomCrop', crop_size=64, padding=8),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='test', pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=4000, val_interval=1000)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper',
    # All networks here learn with it; with 3e-4 and more Swin-T hardly does.
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
# Both end with the training where they say no end, whatever train_cfg.max_iters is.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min_ratio=0.01),
]
auto_scale_lr = dict(base_batch_size=64)

# The pictures of step n, and how they are augmented, depend on the seed and n only.
custom_hooks = [dict(type='ResumableSeedHook')]
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(by_epoch=False, interval=1000, max_keep_ckpts=1)
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
