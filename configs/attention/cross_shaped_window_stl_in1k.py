# Swin-T's layout with cross-shaped windows.
_base_ = '../biformer_stl_in1k.py'

arch = dict(_delete_=True, base='stl', attention='cross_shaped_window')
model = dict(backbone=dict(num_regions=None, arch=arch))
