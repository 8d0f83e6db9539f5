_base_ = 'mmrotate::rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py'
custom_imports = dict(imports=['biformer_mm'])
model = dict(
    backbone=dict(
        _delete_=True, type='BiFormer', arch='tiny', num_regions=4, out_indices=(1, 2, 3)
    ),
    neck=dict(in_channels=[128, 256, 512], start_level=0, out_channels=64),
    bbox_head=dict(num_classes=2, in_channels=64, feat_channels=64),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=5e-4))
param_scheduler = [dict(type='LinearLR', begin=0, end=20, start_factor=0.01, by_epoch=False)]
train_cfg = dict(max_epochs=3)

# The project's data set: two classes, DOTA's format.
data_root = 'data/turned/'
metainfo = dict(classes=('plank', 'tile'))
load = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
]
flip = dict(type='mmdet.RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal'])
pack = dict(
    type='mmdet.PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root=data_root,
        ann_file='train/annfiles/',
        data_prefix=dict(img_path='train/images/'),
        metainfo=metainfo,
        pipeline=[*load, flip, dict(type='mmdet.PackDetInputs')],
    ),
)
val_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root=data_root,
        ann_file='val/annfiles/',
        data_prefix=dict(img_path='val/images/'),
        metainfo=metainfo,
        pipeline=[*load, dict(type='mmdet.Resize', scale=(128, 128), keep_ratio=True), pack],
    ),
)
test_dataloader = val_dataloader
