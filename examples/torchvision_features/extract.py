"""Maps of chosen stages by torchvision's feature extractor. Needs PyTorch and torchvision."""

import torch
from torchvision.models.feature_extraction import create_feature_extractor

from biformer_mm.models import BiFormer

backbone = BiFormer('tiny', num_regions=8)
extractor = create_feature_extractor(backbone, {'stages.1': 'stride 8', 'stages.3': 'stride 32'})
for name, x in extractor(torch.randn(2, 3, 256, 256)).items():
    print(name, tuple(x.shape))
