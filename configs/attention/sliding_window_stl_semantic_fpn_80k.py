# Swin-T's layout with attention to 7 x 7 neighbours.
_base_ = './bi_level_routing_stl_semantic_fpn_80k.py'

arch = dict(_delete_=True, base='stl', attention='sliding_window')
model = dict(backbone=dict(num_regions=None, arch=arch))
