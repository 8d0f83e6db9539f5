# The demo: RetinaNet with a small BiFormer, trained from scratch in minutes on
# a CPU, on the data set of biformer_mm.datasets.make_shapes.
_base_ = './retinanet_biformer_s_1x.py'

norm_cfg = dict(type='GN', num_groups=8)  # trains faster from scratch
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=(32, 64, 128, 256),
            depths=(1, 1, 2, 1),
            topks=(1, 4, 16, None),
            mlp_ratio=3,
            head_dim=32,
            stem='conv',
            pos_conv=True),
        num_regions=5,  # divides the maps of a 160 x 160 image
        drop_path_rate=0.,
        norm_eval=False),
    neck=dict(
        in_channels=[64, 128, 256],
        out_channels=64,
        norm_cfg=norm_cfg,
        num_outs=3),
    bbox_head=dict(
        num_classes=4,
        norm_cfg=norm_cfg,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(strides=[8, 16, 32])))

data_root = 'data/demo/'
metainfo = dict(
    classes=('circle', 'square', 'triangle', 'star'),
    palette=[(66, 135, 245), (46, 184, 92), (245, 166, 35), (220, 50, 110)])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=metainfo,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

max_epochs = 16
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=3e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        convert_to_iter_based=True,
        eta_min_ratio=0.01),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(
    logger=dict(interval=10), visualization=dict(score_thr=0.5))
randomness = dict(seed=0)
