"""Attention to points whose places the queries choose (deformable attention transformer).

Xia et al., Vision Transformer with Deformable Attention, CVPR 2022, section 3.2.
"""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int, check_multiple, check_number

from ..mmengine_compat import register
from .base_attention import BaseAttention

# By stage, as in the source: kernels of the offsets' convolutions, strides of the points, and
# sides of the maps at 224 pixels.
KERNELS, STRIDES, SIDES, GROUPS = (9, 7, 5, 3), (8, 4, 2, 1), (56, 28, 14, 7), (1, 2, 3, 6)


@register
class DeformableAttention(BaseAttention):
    """Attention of all tokens to a grid of points that are moved by learned offsets.

    A small network predicts the offsets from the queries. Keys and values are projected from the
    map at the moved points, bilinearly sampled. A table of relative positions, sampled at the
    displacement of query and point, is added to the scores.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        stride: Tokens between two points.
        kernel_size: Side of the offset network's depth-wise convolution, odd.
        num_groups: Groups of channels that have their own offsets, g.
        reach: Largest offset, as a multiple of the points' distance; None for no limit.
        table_size: Side in tokens of the maps for which the table has one entry per displacement.
            It is interpolated for others.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is out of its range, or ``num_heads`` does not divide ``embed_dims``
            or ``num_groups`` not ``num_heads``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        stride: int = 1,
        kernel_size: int = 5,
        num_groups: int = 1,
        reach: Optional[float] = 2.0,
        table_size: int = 14,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias)
        _, self.num_groups = check_multiple('num_heads', num_heads, 'num_groups', num_groups)
        self.stride = check_int('stride', stride, 1)
        self.reach = reach if reach is None else check_number('reach', reach)
        check_int('table_size', table_size, 1)
        if check_int('kernel_size', kernel_size, 1) % 2 == 0:
            raise ValueError(f'kernel_size must be odd; got {kernel_size}')
        channels = embed_dims // num_groups
        self.spread = nn.Conv2d(
            channels, channels, kernel_size, stride, kernel_size // 2, groups=channels
        )
        self.norm = nn.LayerNorm(channels)
        self.to_offset = nn.Linear(channels, 2, bias=False)
        self.table = nn.Parameter(torch.empty(num_heads, 2 * table_size - 1, 2 * table_size - 1))
        nn.init.trunc_normal_(self.table, std=0.01)

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'DeformableAttention':
        """Choose kernel, stride, groups and table by the stage."""
        i = min(stage, len(STRIDES) - 1)
        groups = GROUPS[i] if num_heads % GROUPS[i] == 0 else 1
        chosen = dict(
            stride=STRIDES[i], kernel_size=KERNELS[i], num_groups=groups, table_size=SIDES[i]
        )
        return cls(embed_dims, num_heads, **{**chosen, **options})

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, H, W, C) -> (N, H, W, C), any H and W."""
        n, height, width, channels = x.shape
        weights = self.qkv.weight.split([channels, 2 * channels])
        biases = (
            (None, None) if self.qkv.bias is None else self.qkv.bias.split([channels, 2 * channels])
        )
        query = F.linear(x, weights[0], biases[0])
        points = self._points(query)  # (N*g, h, w, 2), as x and y from -1 to 1
        maps = x.permute(0, 3, 1, 2).reshape(n * self.num_groups, -1, height, width)
        sampled = F.grid_sample(maps, points, align_corners=True)
        sampled = sampled.reshape(n, channels, -1).transpose(1, 2)
        key, value = F.linear(sampled, weights[1], biases[1]).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (query.flatten(1, 2), key, value)
        )
        bias = self._position_bias(points, n, height, width).to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)))

    def _points(self, query: Tensor) -> Tensor:
        """Move the grid's points: (N, H, W, C) -> (N*g, h, w, 2)."""
        groups = query.unflatten(-1, (self.num_groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        spread = self.norm(self.spread(groups).permute(0, 2, 3, 1))
        offset = self.to_offset(F.gelu(spread))  # along the columns (y), then the rows (x)
        h, w = offset.shape[1:3]
        if self.reach is not None:
            distance = offset.new_tensor([1 / max(h - 1, 1), 1 / max(w - 1, 1)])
            offset = offset.tanh() * distance * self.reach
        points = offset + _centres(h, w, offset)
        if self.reach is None:
            points = points.clamp(-1, 1)
        return points.flip(-1)

    def _position_bias(self, points: Tensor, n: int, height: int, width: int) -> Tensor:
        """Sample the table at the displacements of queries and points, (N, m, H*W, h*w)."""
        places = _corners(height, width, points).flip(-1).flatten(0, 1)  # (H*W, 2)
        displacement = (places[None, :, None] - points.flatten(1, 2)[:, None]) * 0.5
        tables = self.table.unflatten(0, (self.num_groups, -1)).to(points.dtype)
        tables = tables.repeat(n, 1, 1, 1)  # (N*g, m/g, 2*S-1, 2*S-1)
        bias = F.grid_sample(tables, displacement, align_corners=True)
        return bias.unflatten(0, (n, self.num_groups)).flatten(1, 2)


def _centres(height: int, width: int, like: Tensor) -> Tensor:
    """Return the centres of h x w equal cells as y and x from -1 to 1, (h, w, 2)."""
    rows = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / max(height - 1, 1)
    cols = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / max(width - 1, 1)
    return torch.stack(torch.meshgrid(rows * 2 - 1, cols * 2 - 1, indexing='ij'), dim=-1)


def _corners(height: int, width: int, like: Tensor) -> Tensor:
    """Return the places of a map's tokens as y and x from -1 to 1, (H, W, 2)."""
    rows = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    cols = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    return torch.stack(torch.meshgrid(rows, cols, indexing='ij'), dim=-1)
