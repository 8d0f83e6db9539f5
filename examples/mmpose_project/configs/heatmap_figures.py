_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['biformer_mm'])
codec = dict(type='MSRAHeatmap', input_size=(128, 128), heatmap_size=(32, 32), sigma=1.5)
model = dict(
    backbone=dict(_delete_=True, type='BiFormer', arch='tiny', num_regions=4, out_indices=(3,)),
    head=dict(in_channels=512, decoder=codec),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=5e-4))
param_scheduler = [dict(type='LinearLR', begin=0, end=20, start_factor=0.01, by_epoch=False)]
train_cfg = dict(max_epochs=4, val_interval=4)
auto_scale_lr = dict(base_batch_size=8)

# The project's data set: one person a picture, COCO's key points.
data_root = 'data/figures/'
load = [dict(type='LoadImage'), dict(type='GetBBoxCenterScale')]
crop = dict(type='TopdownAffine', input_size=codec['input_size'])
augment = [
    dict(type='RandomFlip', direction='horizontal'),
    dict(type='RandomBBoxTransform', rotate_factor=40),
]
pack = dict(type='PackPoseInputs')
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        pipeline=[*load, *augment, crop, dict(type='GenerateTarget', encoder=codec), pack],
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/val.json',
        bbox_file=None,  # the boxes of the annotations
        data_prefix=dict(img='val/'),
        pipeline=[*load, crop, pack],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
