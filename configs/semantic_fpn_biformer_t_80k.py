_base_ = './semantic_fpn_biformer_s_80k.py'

# The paper trains no tiny segmentor; 0.1 is its rate on ImageNet.
model = dict(backbone=dict(arch='tiny', drop_path_rate=0.1))
