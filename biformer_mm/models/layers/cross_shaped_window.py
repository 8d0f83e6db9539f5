"""Attention in horizontal and vertical stripes (CSWin Transformer).

Dong et al., CSWin Transformer, CVPR 2022, section 3.2 and equation 7.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups
from .basic import DepthwiseConv
from .windows import same_part

STRIPES = (1, 2, 7, 7)  # by stage, as in the source


@register
class CrossShapedWindowAttention(BaseAttention):
    """Half of the heads attend within horizontal stripes, the others within vertical ones.

    A depth-wise 3x3 convolution of the values of each stripe is added (locally-enhanced positional
    encoding, LePE). Padding is neither attended to nor counted.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m, even.
        stripe: Width of the stripes in tokens.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is out of its range, or ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, stripe: int = 7, qkv_bias: bool = True
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias)
        if num_heads % 2:
            raise ValueError(f'num_heads must be even; got {num_heads}')
        self.stripe = check_int('stripe', stripe, 1)
        self.lepe = torch.nn.ModuleList(DepthwiseConv(embed_dims // 2, 3) for _ in range(2))

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'CrossShapedWindowAttention':
        """Widen the stripes with the stages; an odd number of heads is raised by one."""
        num_heads += num_heads % 2
        stripe = STRIPES[min(stage, len(STRIPES) - 1)]
        return cls(embed_dims, num_heads, **{'stripe': stripe, **options})

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend within stripes: (N, H, W, 3*C) -> (N, H, W, C)."""
        halves = qkv.unflatten(-1, (3, 2, -1)).unbind(-2)  # (N, H, W, 3, C/2) each
        horizontal = self._in_rows(halves[0].flatten(3), self.lepe[0])
        vertical = self._in_rows(halves[1].flatten(3).transpose(1, 2), self.lepe[1])
        return torch.cat([horizontal, vertical.transpose(1, 2)], dim=-1)

    def _in_rows(self, qkv: Tensor, lepe: DepthwiseConv) -> Tensor:
        """Attend within stripes of whole rows: (N, H, W, 3*C/2) -> (N, H, W, C/2)."""
        n, height, width, channels = qkv.shape
        missing = -height % self.stripe
        qkv = F.pad(qkv, (0, 0, 0, 0, 0, missing)) if missing else qkv
        stripes = qkv.unflatten(1, (-1, self.stripe))  # (N, G, stripe, W, 3*C/2)
        bias = None
        if missing:
            is_padding = (torch.arange(height + missing, device=qkv.device) >= height).long()
            parts = is_padding.view(-1, self.stripe, 1).expand(-1, -1, width)
            bias = same_part(parts.flatten(1)).to(qkv.dtype)
        out = attend_in_groups(stripes.flatten(2, 3), self.num_heads // 2, bias)
        value = stripes[..., 2 * channels // 3 :].flatten(0, 1)  # zero on the padding
        encoded = lepe(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out = out.unflatten(2, (self.stripe, width)) + encoded.unflatten(0, (n, -1))
        return out.flatten(1, 2)[:, :height]
