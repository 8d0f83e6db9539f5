# BiFormer-S as segmentors use it: 8 x 8 regions for crops of 512. They put
# `biformer` in as their backbone.
custom_imports = dict(imports=['biformer_mm'], allow_failed_imports=False)
biformer = dict(
    type='BiFormer',
    arch='small',
    num_regions=8,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    # ImageNet weights: init_cfg=dict(type='Pretrained', checkpoint=PATH)
    init_cfg=None)
