# Swin-T's layout with position convolutions.
_base_ = '../biformer_stl_in1k.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=(96, 192, 384, 768),
            depths=(2, 2, 6, 2),
            topks=(1, 4, 16, None),
            mlp_ratio=4,
            head_dim=32,
            stem='patch',
            pos_conv=True)))
