"""Attention of each token to its neighbours (stand-alone self-attention).

Ramachandran et al., Stand-Alone Self-Attention in Vision Models, NeurIPS 2019, section 3.1.
"""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention
from .windows import cut_windows, join_windows, pad_to_multiple


@register
class SlidingWindowAttention(BaseAttention):
    """Attention of each token to the w x w tokens around it, fewer at the borders of the map.

    The score of a query q and a key k is q.(k + r). r is a learned vector of the offset, half of
    it for the rows and half for the columns.

    The map is computed in tiles of w x w queries. A tile attends to the (2w-1) x (2w-1) tokens
    around it under a mask, in one fused product.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m; C/m must be even.
        window_size: Side of the neighbourhood in tokens, w, odd.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is out of its range, or ``num_heads`` does not divide ``embed_dims``.
    """

    outside: Tensor
    offset: Tensor

    def __init__(
        self, embed_dims: int, num_heads: int, window_size: int = 7, qkv_bias: bool = True
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias)
        self.window_size = check_int('window_size', window_size, 1)
        if window_size % 2 == 0:
            raise ValueError(f'window_size must be odd; got {window_size}')
        head_dim = embed_dims // num_heads
        if head_dim % 2:
            raise ValueError(f'embed_dims/num_heads must be even; got {embed_dims}/{num_heads}')
        self.of_rows = nn.Parameter(torch.empty(window_size, head_dim // 2))
        self.of_columns = nn.Parameter(torch.empty(window_size, head_dim // 2))
        nn.init.trunc_normal_(self.of_rows, std=0.02)
        nn.init.trunc_normal_(self.of_columns, std=0.02)
        # Offsets of a tile's keys from its queries, along one axis: 0 to w-1 are neighbours.
        offset = torch.arange(2 * window_size - 1)[None] - torch.arange(window_size)[:, None]
        is_outside = (offset < 0) | (offset >= window_size)
        both = is_outside[:, None, :, None] | is_outside[None, :, None, :]
        offset = offset.clamp(0, window_size - 1)
        index = offset[:, None, :, None] * window_size + offset[None, :, None, :]
        self.register_buffer('outside', both.flatten(2).flatten(0, 1), persistent=False)
        self.register_buffer('offset', index.flatten(2).flatten(0, 1), persistent=False)

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend to neighbours: (N, H, W, 3*C) -> (N, H, W, C)."""
        n, height, width, _ = qkv.shape
        size = self.window_size
        qkv = pad_to_multiple(qkv, size)
        padded = qkv.shape[1], qkv.shape[2]
        query = self._heads(cut_windows(qkv[..., : self.embed_dims], size))
        keys, values = (
            self._heads(self._halos(x, padded))
            for x in qkv[..., self.embed_dims :].chunk(2, dim=-1)
        )
        tiles = query.shape[1]
        vectors = torch.cat(
            [
                self.of_rows[:, None].expand(-1, size, -1),
                self.of_columns[None].expand(size, -1, -1),
            ],
            dim=-1,
        ).flatten(0, 1)
        by_offset = (query @ vectors.to(query.dtype).t()) * query.shape[-1] ** -0.5
        index = self.offset.expand(n, tiles, self.num_heads, -1, -1)
        bias = by_offset.gather(-1, index).masked_fill(self.outside, float('-inf'))
        valid = qkv.new_zeros(1, *padded, 1)
        valid[:, :height, :width] = 1
        off_map = self._halos(valid, padded)[..., 0] == 0  # (1, tiles, keys)
        # A padded query may attend to anything: one that attends to nothing would be nan.
        is_padding = cut_windows(valid, size)[..., 0] == 0  # (1, tiles, queries)
        bias = bias.masked_fill(
            off_map[:, :, None, None] & ~is_padding[:, :, None, :, None], float('-inf')
        )
        bias = bias.masked_fill(is_padding[:, :, None, :, None], 0.0)
        out = F.scaled_dot_product_attention(
            query.flatten(1, 2),
            keys.flatten(1, 2),
            values.flatten(1, 2),
            attn_mask=bias.flatten(1, 2),
        )
        out = out.unflatten(1, (tiles, self.num_heads)).transpose(2, 3).flatten(3)
        return join_windows(out, size, padded)[:, :height, :width]

    def _heads(self, x: Tensor) -> Tensor:
        """Split channels into heads: (N, G, T, C) -> (N, G, m, T, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)

    def _halos(self, x: Tensor, padded: Tuple[int, int]) -> Tensor:
        """Cut the surroundings of each tile: (N, H, W, C) -> (N, G, (2w-1)*(2w-1), C)."""
        size = self.window_size
        reach = size // 2
        x = F.pad(x, (0, 0, reach, reach, reach, reach))
        halos = x.unfold(1, 2 * size - 1, size).unfold(2, 2 * size - 1, size)
        return halos.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(1, 2)
