# Swin-T's layout with attention to 7 x 7 neighbours.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='sliding_window')
model = dict(backbone=dict(num_regions=None, arch=arch))
