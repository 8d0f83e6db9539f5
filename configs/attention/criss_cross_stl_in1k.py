# Swin-T's layout with criss-cross attention.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='criss_cross')
model = dict(backbone=dict(num_regions=None, arch=arch))
