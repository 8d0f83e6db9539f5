# mmpretrain's ConvNeXt-T.
_base_ = './recipe.py'

model = dict(
    backbone=dict(
        type='ConvNeXt',
        arch='tiny',
        # Instead of its own, which is a TruncNormal; see recipe.py.
        init_cfg=[
            dict(type='Normal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.0),
            dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
        ],
    ),
    neck=None,  # the backbone ends in it
    head=dict(in_channels=768),
)
