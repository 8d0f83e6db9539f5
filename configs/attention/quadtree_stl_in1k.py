# Swin-T's layout with quadtree attention.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='quadtree')
model = dict(backbone=dict(num_regions=None, arch=arch))
