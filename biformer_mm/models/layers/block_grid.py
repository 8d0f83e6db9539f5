"""Attention in blocks and, in every other block of the network, in a grid (MaxViT).

Tu et al., MaxViT: Multi-Axis Vision Transformer, ECCV 2022, section 3.2.
"""

from typing import Any

from torch import Tensor

from biformer_mm.ops.validation import check_bool, check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups
from .windows import (
    RelativePositionBias,
    cut,
    cut_grid,
    join,
    join_grid,
    pad_to_multiple,
    padding_parts,
    same_part,
)


@register
class BlockGridAttention(BaseAttention):
    """Attention within blocks of w x w neighbours, or within a grid of w x w distant tokens.

    The tokens of a grid lie H/w rows and W/w columns apart, so that each spans the whole map. Both
    have a relative position bias. Padding is neither attended to nor counted.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        window_size: Side of blocks and grids in tokens, w.
        grid: Whether to attend within grids instead of blocks.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is out of its range, or ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int = 7,
        grid: bool = False,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias)
        self.window_size = check_int('window_size', window_size, 1)
        self.grid = check_bool('grid', grid)
        self.bias = RelativePositionBias(window_size, num_heads)

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'BlockGridAttention':
        """Attend within blocks, and within grids in every other block of the network."""
        return cls(embed_dims, num_heads, **{'grid': block % 2 == 1, **options})

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend within blocks or grids: (N, H, W, 3*C) -> (N, H, W, C)."""
        height, width = qkv.shape[1:3]
        size = self.window_size, self.window_size
        cut_groups, join_groups = (cut_grid, join_grid) if self.grid else (cut, join)
        qkv = pad_to_multiple(qkv, self.window_size)
        parts = padding_parts((qkv.shape[1], qkv.shape[2]), (height, width), qkv.device)
        bias = self.bias()
        if parts is not None:
            bias = bias + same_part(cut_groups(parts, size))
        out = attend_in_groups(cut_groups(qkv, size), self.num_heads, bias.to(qkv.dtype))
        return join_groups(out).flatten(3)[:, :height, :width]
