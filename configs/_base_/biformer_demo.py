# A small BiFormer that trains from scratch in minutes on a CPU. Demos put
# `biformer` in as their backbone, with regions that divide their maps.
custom_imports = dict(imports=['biformer_mm'], allow_failed_imports=False)
biformer = dict(
    type='BiFormer',
    arch=dict(
        embed_dims=(32, 64, 128, 256),
        depths=(1, 1, 2, 1),
        topks=(1, 4, 16, None),
        mlp_ratio=3,
        head_dim=32,
        stem='conv',
        pos_conv=True,
    ),
)
