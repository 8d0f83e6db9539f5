# mmpretrain's Swin-T.
_base_ = './recipe.py'

# Windows of 4 x 4 tokens: a query attends to as many tokens as BiFormer's. As in Swin's own code,
# a window shrinks to a map that is smaller; padding, mmpretrain's other way, would be attended to.
model = dict(
    backbone=dict(
        type='SwinTransformer',
        arch='tiny',
        img_size=64,
        window_size=4,
        stage_cfgs=[dict(), dict(), dict(), dict(window_size=2)],
        drop_path_rate=0.0,
    ),
    head=dict(in_channels=768),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'.relative_position_bias_table': dict(decay_mult=0.0)})
)
