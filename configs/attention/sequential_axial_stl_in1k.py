# Swin-T's layout with sequential axial attention.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='sequential_axial')
model = dict(backbone=dict(num_regions=None, arch=arch))
