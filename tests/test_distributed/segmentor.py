# A segmentor whose training involves no chance and, but for the head's batch
# norm, no statistics of a batch; its loss is a mean over pixels. A step then
# depends on the images of all processes, not on who has which.
_base_ = '../../configs/semantic_fpn_biformer_demo.py'

model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        _delete_=True,
        type='BiFormer',
        arch=dict(
            embed_dims=(32, 64, 128, 256),
            depths=(1, 1, 1, 1),
            topks=(1, 2, 4, None),
            mlp_ratio=2,
            head_dim=32,
            stem='conv',
            pos_conv=True,
        ),
        num_regions=2,
        norm_eval=True,
    ),
    decode_head=dict(dropout_ratio=0.0, norm_cfg=dict(type='SyncBN', requires_grad=True)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9), clip_grad=None
)
param_scheduler = None
