# BiFormer-S with plain patch embedding.
_base_ = '../biformer_s_in1k.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=(64, 128, 256, 512),
            depths=(4, 4, 18, 4),
            topks=(1, 4, 16, None),
            mlp_ratio=3,
            head_dim=32,
            stem='patch',
            pos_conv=True)))
