"""For mmdeploy: upsample by a factor.

mmseg's layer computes the size in Python, which a trace records as a constant: Semantic FPN, which
it is part of, would give wrong classes at any other size than that of the export.
"""

import torch.nn.functional as F
from mmdeploy.core import FUNCTION_REWRITER
from torch import Tensor


@FUNCTION_REWRITER.register_rewriter(
    'mmseg.models.utils.wrappers.Upsample.forward', backend='onnxruntime'
)
def upsample(self, x: Tensor) -> Tensor:
    """Upsample a map: (N, C, H, W) -> (N, C, factor*H, factor*W)."""
    return F.interpolate(
        x, self.size, self.scale_factor, mode=self.mode, align_corners=self.align_corners
    )
