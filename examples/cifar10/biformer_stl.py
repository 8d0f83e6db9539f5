# Swin-T's layout with bi-level routing attention.
_base_ = './biformer_t.py'

model = dict(backbone=dict(arch='stl'), head=dict(in_channels=768))
