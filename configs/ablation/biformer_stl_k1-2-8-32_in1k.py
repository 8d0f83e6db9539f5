# Table 7, row 2: fewer routed regions, in stage 4 too.
_base_ = '../biformer_stl_in1k.py'

model = dict(backbone=dict(topks=(1, 2, 8, 32)))
