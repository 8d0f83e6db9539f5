"""BiFormer from timm.create_model. Needs PyTorch and timm."""

import timm
import torch

import biformer_mm.timm  # noqa: F401  (registers the models)

images = torch.randn(2, 3, 224, 224)

classifier = timm.create_model('biformer_tiny', num_classes=10, drop_path_rate=0.1)
print('logits', tuple(classifier(images).shape))

# Further arguments are BiFormer's: here those of detection.
backbone = timm.create_model(
    'biformer_tiny', features_only=True, out_indices=(1, 2, 3), num_regions=16, padding='masked'
)
for channels, stride, x in zip(
    backbone.feature_info.channels(), backbone.feature_info.reduction(), backbone(images)
):
    print(f'stride {stride}: {channels} channels, {tuple(x.shape)}')
