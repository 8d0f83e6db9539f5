"""Attention of each token to its neighbours (stand-alone self-attention).

Ramachandran et al., Stand-Alone Self-Attention in Vision Models, NeurIPS 2019, section 3.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention, dot_product_attention


@register
class SlidingWindowAttention(BaseAttention):
    """Attention of each token to the w x w tokens around it, fewer at the borders of the map.

    The score of a query q and a key k is q.(k + r). r is a learned vector of the offset, half of
    it for the rows and half for the columns.

    The map is computed in tiles of w x w queries. A tile attends to the (2w-1) x (2w-1) tokens
    around it, in one fused product under a bias that leaves each query its neighbours. So the
    products are up to four times those of the neighbourhoods alone.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m; C/m must be even.
        window_size: Side of the neighbourhood in tokens, w, odd.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is out of its range, or ``num_heads`` does not divide ``embed_dims``.
    """

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

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend to neighbours: (N, H, W, 3*C) -> (N, H, W, C)."""
        n, height, width, _ = qkv.shape
        size, heads = self.window_size, self.num_heads
        qkv = qkv.unflatten(-1, (3, heads, -1)).permute(3, 0, 4, 1, 2, 5).flatten(1, 2)
        query, key, value = qkv  # (N*m, H, W, d)
        query = F.pad(query, (0, 0, 0, -width % size, 0, -height % size))
        query = query.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
        bias = self._position_bias(query, height, width)
        out = dot_product_attention(
            query.flatten(3, 4).flatten(1, 2),
            self._surroundings(key),
            self._surroundings(value),
            bias,
        )
        rows, columns = query.shape[1:3]  # of tiles
        out = out.view(n, heads, rows, columns, size, size, -1).permute(0, 2, 4, 3, 5, 1, 6)
        return out.reshape(n, rows * size, columns * size, -1)[:, :height, :width]

    def _position_bias(self, query: Tensor, height: int, width: int) -> Tensor:
        """Multiply queries by the scaled vectors of their neighbours' offsets.

        Args:
            query: (N*m, rows, columns, w, w, d), the last two axes before d within a tile.
            height: H, without padding.
            width: W, without padding.

        Returns:
            The products for all pairs of a tile, (N*m, rows*columns, w*w, (2w-1)*(2w-1)); of pairs
            that are no neighbours, and of keys off the map, a large negative number.
        """
        rows, columns = query.shape[1:3]
        of_row, of_column = query.chunk(2, dim=-1)
        to_row = self._offsets(rows, height, query.device)[:, None, :, None]
        to_column = self._offsets(columns, width, query.device)[:, None]
        scale = query.shape[-1] ** -0.5
        by_row = _products(of_row, self.of_rows * scale, to_row)
        by_column = _products(of_column, self.of_columns * scale, to_column)
        return (by_row[..., None] + by_column[..., None, :]).flatten(5).flatten(3, 4).flatten(1, 2)

    def _offsets(self, tiles: int, length: int, device: torch.device) -> Tensor:
        """List the offsets of the keys around each tile from its queries, along one axis.

        Args:
            tiles: Number of tiles along the axis.
            length: Tokens of the map along the axis, without padding.
            device: Where the result is needed.

        Returns:
            (tiles, w, 2w-1): 0 to w-1; w for keys that are no neighbours or not on the map.
        """
        size = self.window_size
        first = size * torch.arange(tiles, device=device)[:, None, None]
        query = first + torch.arange(size, device=device)[:, None]
        key = first - size // 2 + torch.arange(2 * size - 1, device=device)
        offset = key - query + size // 2
        is_far = (offset < 0) | (offset >= size) | (key < 0) | (key >= length)
        return offset.masked_fill(is_far, size)

    def _surroundings(self, x: Tensor) -> Tensor:
        """Cut the tokens around each tile: (N*m, H, W, d) -> (N*m, tiles, (2w-1)*(2w-1), d)."""
        size, reach = self.window_size, self.window_size // 2
        bottom, right = (size - reach + -length % size for length in x.shape[1:3])
        x = F.pad(x, (0, 0, reach, right, reach, bottom))
        # A tile and the first of the next one, along each axis.
        x = x.unflatten(1, (-1, size))
        x = torch.cat([x[:, :-1], x[:, 1:, : size - 1]], dim=2)
        x = x.unflatten(3, (-1, size)).transpose(2, 3)
        x = torch.cat([x[:, :, :-1], x[:, :, 1:, :, : size - 1]], dim=4)
        return x.flatten(3, 4).flatten(1, 2)


def _products(query: Tensor, vectors: Tensor, offsets: Tensor) -> Tensor:
    """Multiply queries by the vectors of given offsets.

    Args:
        query: (..., d/2).
        vectors: (w, d/2).
        offsets: 0 to w-1; w gives a large negative number. (..., 2w-1).

    Returns:
        (..., 2w-1).
    """
    # Not infinity: a padded query may have no neighbour on the map, and would be nan.
    products = F.pad(query @ vectors.t(), (0, 1), value=torch.finfo(query.dtype).min / 4)
    return products.gather(-1, offsets.expand(*products.shape[:-1], -1))
