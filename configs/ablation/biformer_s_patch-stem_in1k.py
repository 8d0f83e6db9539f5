# BiFormer-S with plain patch embedding.
_base_ = '../biformer_s_in1k.py'

model = dict(backbone=dict(arch=dict(_delete_=True, base='small', stem='patch')))
