# BiFormer-S as segmentors use it: 8 x 8 regions for crops of 512. They put
# `biformer` in as their backbone.
# ImageNet weights are the user's to give, and only a key that is not here yet can
# become a dict: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=PATH
custom_imports = dict(imports=['biformer_mm'], allow_failed_imports=False)
biformer = dict(
    type='BiFormer', arch='small', num_regions=8, norm_cfg=dict(type='SyncBN', requires_grad=True)
)
