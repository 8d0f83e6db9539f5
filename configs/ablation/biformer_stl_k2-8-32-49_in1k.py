# Table 7, row 3: twice the routed regions; all 49 in stage 4.
_base_ = '../biformer_stl_in1k.py'

model = dict(backbone=dict(topks=(2, 8, 32, None)))
