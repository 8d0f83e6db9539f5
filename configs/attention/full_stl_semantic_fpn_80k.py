# Swin-T's layout with full attention.
_base_ = './bi_level_routing_stl_semantic_fpn_80k.py'

arch = dict(_delete_=True, base='stl', attention='full')
model = dict(backbone=dict(num_regions=None, arch=arch))
