_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['biformer_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='BiFormer',
        arch='small',
        num_regions=7,
        out_indices=(3,),
        out_norm='BN',
        drop_path_rate=0.15,
    ),
    head=dict(in_channels=512),
    # Swin's, but for TruncNormal: its bounds of 100 deviations truncate nothing
    # and put single weights of 2.0 there.
    init_cfg=[
        dict(type='Normal', layer='Linear', std=0.02, bias=0.0),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)

train_dataloader = dict(
    batch_size=128, sampler=dict(type='RepeatAugSampler'), collate_fn=dict(type='default_collate')
)
val_dataloader = dict(collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True, type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', begin=5, by_epoch=True, eta_min=1e-5, convert_to_iter_based=True
    ),
]
