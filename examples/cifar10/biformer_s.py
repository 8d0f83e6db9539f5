# BiFormer-S.
_base_ = './biformer_t.py'

model = dict(backbone=dict(arch='small'))
