# Swin-T's layout with Twins' spatially separable attention.
_base_ = './bi_level_routing_stl_semantic_fpn_80k.py'

arch = dict(_delete_=True, base='stl', attention='spatially_separable')
model = dict(backbone=dict(num_regions=None, arch=arch))
