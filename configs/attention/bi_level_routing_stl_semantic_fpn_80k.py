# Swin-T's layout with bi-level routing attention (paper, table 5). The paper gives
# no drop-path rate of its own for it; Swin-T's is taken.
_base_ = '../semantic_fpn_biformer_s_80k.py'

model = dict(
    backbone=dict(arch='stl', drop_path_rate=0.2), neck=dict(in_channels=[96, 192, 384, 768])
)
