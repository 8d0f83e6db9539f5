# Swin-T's layout with position convolutions.
_base_ = '../biformer_stl_in1k.py'

model = dict(backbone=dict(arch=dict(_delete_=True, base='stl', pos_conv=True)))
