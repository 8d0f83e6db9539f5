# Swin-T's layout with bi-level routing attention (paper, table 7). The paper
# gives no drop-path rate of its own for it; Swin-T's is taken.
_base_ = './biformer_s_in1k.py'

model = dict(backbone=dict(arch='stl', drop_path_rate=0.2), head=dict(in_channels=768))
