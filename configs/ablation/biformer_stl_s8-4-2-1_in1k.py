# Table 7, row 4: regions of 7 x 7 tokens in every stage.
_base_ = '../biformer_stl_in1k.py'

model = dict(backbone=dict(num_regions=(8, 4, 2, 1), topks=(2, 2, 2, 1)))
