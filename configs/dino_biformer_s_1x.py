# DINO with four scales, mmdet's recipe: the backbone learns at a tenth of the
# rate.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', './_base_/biformer_det.py']

model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.biformer),
    neck=dict(in_channels=[128, 256, 512]),
)
