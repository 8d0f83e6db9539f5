"""Local attention and, in every other block, attention to a sub-sampled map (Twins-SVT).

Chu et al., Twins: Revisiting the Design of Spatial Attention in Vision Transformers, NeurIPS 2021,
section 3.2.
"""

from typing import Any, Optional

import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups, attend_to
from .basic import conv_nhwc
from .windows import cut, join, pad_to_multiple, padding_parts, same_part

RATIOS = (8, 4, 2, 1)  # by stage, as in the source


@register
class SpatiallySeparableAttention(BaseAttention):
    """Attention within windows of w x w tokens, or of all tokens to a sub-sampled map.

    A convolution with stride r and a LayerNorm sub-sample the map that keys and values are made
    from. Padding of the windows is neither attended to nor counted; the convolution leaves out the
    rows and columns that do not fill its kernel, as the source does.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        window_size: Side of the windows in tokens, w.
        ratio: Stride of the sub-sampling, r; None for attention within windows.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is out of its range, or ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int = 7,
        ratio: Optional[int] = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias)
        self.window_size = check_int('window_size', window_size, 1)
        self.ratio = ratio if ratio is None else check_int('ratio', ratio, 1)
        if ratio is not None and ratio > 1:
            self.sub_sample = nn.Conv2d(embed_dims, embed_dims, ratio, stride=ratio)
            self.norm = nn.LayerNorm(embed_dims)

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'SpatiallySeparableAttention':
        """Attend within windows, and to a sub-sampled map in every other block."""
        if 'ratio' not in options and block % 2 == 1:
            options = dict(options, ratio=RATIOS[min(stage, len(RATIOS) - 1)])
        return cls(embed_dims, num_heads, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, H, W, C) -> (N, H, W, C), any H and W."""
        if self.ratio is None:
            return super().forward(x)
        small = x
        if self.ratio > 1:
            # Of a map that is smaller than the kernel one token is left.
            bottom, right = (max(self.ratio - side, 0) for side in x.shape[1:3])
            small = F.pad(x, (0, 0, 0, right, 0, bottom))
            small = self.norm(conv_nhwc(self.sub_sample, small))
        query, keys_values = self.queries(x), self.keys_values(small)
        out = attend_to(query.flatten(1, 2), keys_values.flatten(1, 2), self.num_heads)
        return self.proj(out.view_as(x))

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend within windows: (N, H, W, 3*C) -> (N, H, W, C)."""
        height, width = qkv.shape[1:3]
        size = self.window_size, self.window_size
        qkv = pad_to_multiple(qkv, self.window_size)
        parts = padding_parts((qkv.shape[1], qkv.shape[2]), (height, width), qkv.device)
        bias = None if parts is None else same_part(cut(parts, size)).to(qkv.dtype)
        out = attend_in_groups(cut(qkv, size), self.num_heads, bias)
        return join(out).flatten(3)[:, :height, :width]
