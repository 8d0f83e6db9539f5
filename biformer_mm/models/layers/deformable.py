"""Attention to points whose places the queries choose (deformable attention transformer).

Xia et al., Vision Transformer with Deformable Attention, CVPR 2022, section 3.2.
"""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int, check_multiple, check_number

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_to

# By stage, as in the source: kernels of the offsets' convolutions, strides of the points, and
# sides of the maps at 224 pixels.
KERNELS, STRIDES, SIDES, GROUPS = (9, 7, 5, 3), (8, 4, 2, 1), (56, 28, 14, 7), (1, 2, 3, 6)


@register
class DeformableAttention(BaseAttention):
    """Attention of all tokens to a grid of points that are moved by learned offsets.

    A small network predicts the offsets from the queries. Keys and values are projected from the
    map at the moved points, bilinearly sampled; beyond its borders it is zero. A table of relative
    positions, sampled at the displacement of query and point, is added to the scores.

    As in the source's code, point i of n along an axis starts at (i + 0.5)/(n - 1) of the way from
    the first token to the last, so the last point starts beyond it. Points are computed in float32
    at least, because half precision would move them.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        stride: Tokens between two points.
        kernel_size: Side of the offset network's depth-wise convolution, odd.
        num_groups: Groups of channels that have their own offsets, g.
        reach: Largest offset, in halves of the distance between two points (the source's offset
            range factor). None has no limit, but keeps the points on the map.
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
        if reach is not None and reach <= 0:
            raise ValueError(f'reach must be above 0, or None for no limit; got {reach}')
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
        query = self.queries(x)
        points = self._points(query)
        maps = x.permute(0, 3, 1, 2).reshape(n * self.num_groups, -1, height, width)
        sampled = F.grid_sample(maps.to(points.dtype), points, align_corners=True).to(x.dtype)
        keys_values = self.keys_values(sampled.reshape(n, channels, -1).transpose(1, 2))
        bias = self._position_bias(points, height, width).to(query.dtype)
        out = attend_to(query.flatten(1, 2), keys_values, self.num_heads, bias)
        return self.proj(out.view_as(x))

    def _points(self, query: Tensor) -> Tensor:
        """Move the grid's points.

        Args:
            query: (N, H, W, C).

        Returns:
            x and y of h x w points for each group, (N*g, h, w, 2). The first token of the map is
            at -1, the last at 1.
        """
        groups = query.unflatten(-1, (self.num_groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        # Contiguous, so that the kernel's gradient is too, as DDP wants it.
        spread = self.norm(self.spread(groups.contiguous()).permute(0, 2, 3, 1))
        offset = self.to_offset(F.gelu(spread))
        offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
        height, width = offset.shape[1:3]
        y, x = offset.unbind(-1)
        if self.reach is not None:
            y = y.tanh() * (self.reach / max(height - 1, 1))
            x = x.tanh() * (self.reach / max(width - 1, 1))
        points = torch.stack([x + _starts(width, x), y + _starts(height, y)[:, None]], dim=-1)
        return points.clamp(-1, 1) if self.reach is None else points

    def _position_bias(self, points: Tensor, height: int, width: int) -> Tensor:
        """Sample the table at the displacements of queries and points, (N, m, H*W, h*w)."""
        columns, rows = _places(width, points), _places(height, points)
        places = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), dim=-1).flatten(0, 1)
        displacement = (places[None, :, None] - points.flatten(1, 2)[:, None]) * 0.5
        tables = self.table.unflatten(0, (self.num_groups, -1)).to(points.dtype)
        n = points.shape[0] // self.num_groups
        tables = tables.repeat(n, 1, 1, 1)  # (N*g, m/g, 2*S-1, 2*S-1)
        bias = F.grid_sample(tables, displacement, align_corners=True)
        return bias.unflatten(0, (n, -1)).flatten(1, 2)


def _starts(points: int, like: Tensor) -> Tensor:
    """Return where the points of an axis start; -1 is the first token, 1 the last."""
    place = torch.arange(points, device=like.device, dtype=like.dtype)
    return (2 * place + 1) / max(points - 1, 1) - 1


def _places(tokens: int, like: Tensor) -> Tensor:
    """Return the places of the tokens of an axis, from -1 to 1; 0 if there is one only."""
    place = torch.arange(tokens, device=like.device, dtype=like.dtype)
    return (2 * place - (tokens - 1)) / max(tokens - 1, 1)
