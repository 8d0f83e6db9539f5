_base_ = './mask_rcnn_biformer_s_1x.py'

# The paper trains no tiny detector; 0.1 is its rate on ImageNet.
model = dict(backbone=dict(arch='tiny', drop_path_rate=0.1))
