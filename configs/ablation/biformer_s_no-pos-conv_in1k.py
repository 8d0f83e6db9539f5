# BiFormer-S without position convolutions.
_base_ = '../biformer_s_in1k.py'

model = dict(backbone=dict(arch=dict(_delete_=True, base='small', pos_conv=False)))
