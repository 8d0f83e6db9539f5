# Swin-T's layout made deeper and narrower, as BiFormer-S is.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='small', stem='patch', pos_conv=False)
model = dict(backbone=dict(arch=arch), head=dict(in_channels=512))
