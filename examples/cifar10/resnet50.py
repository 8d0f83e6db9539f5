# mmpretrain's ResNet-50, with its usual stem; its convolutions keep their own first weights.
_base_ = './recipe.py'

model = dict(backbone=dict(type='ResNet', depth=50), head=dict(in_channels=2048))
