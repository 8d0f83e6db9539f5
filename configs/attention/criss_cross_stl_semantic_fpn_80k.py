# Swin-T's layout with criss-cross attention.
_base_ = './bi_level_routing_stl_semantic_fpn_80k.py'

arch = dict(_delete_=True, base='stl', attention='criss_cross')
model = dict(backbone=dict(num_regions=None, arch=arch))
