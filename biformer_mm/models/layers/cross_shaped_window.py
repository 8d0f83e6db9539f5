"""Attention in horizontal and vertical stripes (CSWin Transformer).

Dong et al., CSWin Transformer, CVPR 2022, section 3.2 and equation 7.
"""

from typing import Any, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups
from .basic import DepthwiseConv, conv_nhwc
from .windows import cut, join, padding_parts, same_part

STRIPES = (1, 2, 7, 7)  # by stage, as in the source


@register
class CrossShapedWindowAttention(BaseAttention):
    """Half of the heads attend within horizontal stripes, the others within vertical ones.

    A depth-wise 3x3 convolution of the values of each stripe is added (locally-enhanced positional
    encoding, LePE). Padding is neither attended to nor counted.

    The source's last stage attends to the whole map. So does this layer as long as a stripe covers
    it, as in the last stage at 224 pixels; on larger maps it keeps to stripes.

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
        self.lepe = nn.ModuleList(DepthwiseConv(embed_dims // 2, 3) for _ in range(2))

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'CrossShapedWindowAttention':
        """Widen the stripes with the stages; an odd number of heads is raised by one.

        So the first stage of Swin-T's layout has 4 heads of 24 channels instead of 3 of 32.
        """
        num_heads += num_heads % 2
        stripe = STRIPES[min(stage, len(STRIPES) - 1)]
        return cls(embed_dims, num_heads, **{'stripe': stripe, **options})

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend within stripes: (N, H, W, 3*C) -> (N, H, W, C)."""
        height, width = qkv.shape[1:3]
        first, second = qkv.unflatten(-1, (3, 2, -1)).unbind(-2)  # (N, H, W, 3, C/2) each
        horizontal = self._within(first.flatten(3), (self.stripe, width), self.lepe[0])
        vertical = self._within(second.flatten(3), (height, self.stripe), self.lepe[1])
        return torch.cat([horizontal, vertical], dim=-1)

    def _within(self, qkv: Tensor, size: Tuple[int, int], lepe: nn.Module) -> Tensor:
        """Attend within stripes of a size: (N, H, W, 3*C/2) -> (N, H, W, C/2)."""
        height, width = qkv.shape[1:3]
        qkv = F.pad(qkv, (0, 0, 0, -width % size[1], 0, -height % size[0]))
        parts = padding_parts((qkv.shape[1], qkv.shape[2]), (height, width), qkv.device)
        bias = None if parts is None else same_part(cut(parts, size)).to(qkv.dtype)
        stripes = cut(qkv, size)
        out = attend_in_groups(stripes, self.num_heads // 2, bias).flatten(5)
        value = stripes.chunk(3, dim=-1)[2]  # zero on the padding
        encoded = conv_nhwc(lepe, value.flatten(0, 2)).view_as(value)
        return join(out + encoded)[:, :height, :width]
