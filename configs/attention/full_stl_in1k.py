# Swin-T's layout with full attention.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='full')
model = dict(backbone=dict(num_regions=None, arch=arch))
