_base_ = './upernet_biformer_s_160k.py'

# The paper trains no tiny segmentor; 0.1 is its rate on ImageNet.
model = dict(backbone=dict(arch='tiny', drop_path_rate=0.1))
