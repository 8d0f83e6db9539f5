# Swin-T's layout with MaxViT's blocks and grids.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='block_grid')
model = dict(backbone=dict(num_regions=None, arch=arch))
