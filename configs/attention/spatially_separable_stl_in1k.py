# Swin-T's layout with Twins' spatially separable attention.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='spatially_separable')
model = dict(backbone=dict(num_regions=None, arch=arch))
