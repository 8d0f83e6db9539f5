"""Region attention on CPUs that gathers a few regions at a time.

It never holds k copies of all keys and values. For one tile of query regions after another, the
routed regions are gathered into a buffer that stays in the cache, and PyTorch's fused attention
runs on it. The backward pass gathers again. All regions of a tile have the same part of them on
the map, so padding costs no queries.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed regions, C channels,
m heads; B regions of a tile, with t tokens each on the map.
"""

import threading
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..region import merge, valid_tokens
from ..registration import register
from . import cpu_flash

# Size of the gathered keys and values. With much less there are more calls, and much more does
# not fit into the cache.
TILE_BYTES = 8 << 20


class _Tile(NamedTuple):
    """Neighbouring regions of an image, and the part of each that is on the map.

    The part is the first ``h`` rows and ``w`` columns of a region.
    """

    image: int
    rows: slice
    cols: slice
    h: int
    w: int

    def view(self, x: Tensor) -> Tensor:
        """Return the tile's part of (N, Sh, Sw, h, w, C), as a view."""
        return x[self.image, self.rows, self.cols, : self.h, : self.w]

    def cut(self, x: Tensor) -> Tensor:
        """Cut out the tile's tokens: (N, Sh, Sw, h, w, C) -> (B, t, C)."""
        return self.view(x).flatten(2, 3).flatten(0, 1)

    def paste(self, tokens: Tensor, x: Tensor) -> None:
        """Write tokens, (B, t, C), to where :meth:`cut` takes them from."""
        part = self.view(x)
        part.copy_(tokens.view(part.shape))


def _tiles(
    region_shape: Sequence[int], images: int, valid_h: int, valid_w: int, regions_per_tile: int
) -> Iterator[_Tile]:
    """Cover the map with tiles: whole rows of regions, or parts of one row."""
    sh, sw, h, w = region_shape
    valid_h, valid_w = valid_h or sh * h, valid_w or sw * w
    for image in range(images):
        for cols, tile_w in _spans(valid_w, w, regions_per_tile):
            high = max(1, regions_per_tile // (cols.stop - cols.start))
            for rows, tile_h in _spans(valid_h, h, high):
                yield _Tile(image, rows, cols, tile_h, tile_w)


def _spans(length: int, size: int, most: int) -> Iterator[Tuple[slice, int]]:
    """Cut ``length`` into regions of ``size``, and these into spans of up to ``most``.

    A smaller region at the end is a span by itself.

    Yields:
        Each span as a slice of regions, and the size of these regions.
    """
    full, rest = divmod(length, size)
    for start in range(0, full, most):
        yield slice(start, min(start + most, full)), size
    if rest:
        yield slice(full, full + 1), rest


class _Scratch(threading.local):
    """Memory for the keys and values of a tile, which each thread keeps.

    A new allocation per tile would cost page faults and fragment the heap.
    """

    def __init__(self) -> None:
        self.buffers: Dict[torch.dtype, Tensor] = {}

    def get(self, count: int, rows: int, columns: int, dtype: torch.dtype) -> List[Tensor]:
        """Return ``count`` tensors of (rows, columns), not filled."""
        size = count * rows * columns
        if dtype not in self.buffers or len(self.buffers[dtype]) < size:
            with torch.inference_mode(False):  # training cannot use a tensor of inference mode
                self.buffers[dtype] = torch.empty(size, dtype=dtype)
        return list(self.buffers[dtype][:size].view(count, rows, columns))


_scratch = _Scratch()


class _Keys:
    """Keys and values, gathered tile by tile."""

    def __init__(
        self, key: Tensor, value: Tensor, region_index: Tensor, mask: Optional[Tensor]
    ) -> None:
        n, sh, sw, h, w, c = key.shape
        self.mask = mask  # (Sh, Sw, h, w), which tokens are keys, or None for all
        self.index = region_index.unflatten(1, (sh, sw))
        self.channels = c
        # A row of a region is contiguous in a map: (N*Sh*h*Sw, w*C).
        self.maps = [self._rows(key), self._rows(value)]
        # The indices of each region's rows in these, (N, R, h).
        self.rows = torch.arange(n * sh * h * sw).view(n, sh, h, sw)
        self.rows = self.rows.transpose(2, 3).flatten(1, 2)

        routed = region_index.shape[2] * h
        row_bytes = 2 * w * c * key.element_size()
        self.regions_per_tile = max(1, TILE_BYTES // (routed * row_bytes))
        self.buffers = _scratch.get(2, self.regions_per_tile * routed, w * c, key.dtype)

    def _rows(self, x: Tensor) -> Tensor:
        if self.mask is not None:  # 0 * nan would reach the sums
            x = x.masked_fill(~self.mask.unsqueeze(-1), 0)
        n, sh, sw, h, w, c = x.shape
        return merge(x).reshape(n * sh * h * sw, w * c)

    def gather(self, tile: _Tile) -> Tuple[Tensor, List[Tensor]]:
        """Gather the keys and values of a tile's routed regions.

        Returns:
            The indices of the gathered rows of regions, (B*k*h); and the keys and values,
            (B, k*T, C) each, which the next call overwrites.
        """
        index = self.index[tile.image, tile.rows, tile.cols]
        rows = self.rows[tile.image, index].flatten()
        found = []
        for x, buffer in zip(self.maps, self.buffers):
            part = buffer[: len(rows)]
            torch.index_select(x, 0, rows, out=part)
            found.append(part.view(index[..., 0].numel(), -1, self.channels))
        return rows, found

    def bias(self, tile: _Tile, dtype: torch.dtype) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """Make the mask of a tile.

        Returns:
            What to add to the scores, (B, 1, 1, k*T); and which regions have no key, bool,
            (B, 1, 1). None and None if all tokens are keys.
        """
        if self.mask is None:
            return None, None
        index = self.index[tile.image, tile.rows, tile.cols].flatten(0, 1)
        keys = self.mask.flatten(2).flatten(0, 1)[index].flatten(1)
        keyless = ~keys.any(dim=1)[:, None, None]
        # A query without a key would give nan: let it attend to all; its output is zeroed later.
        keys = keys[:, None, None] | keyless.unsqueeze(1)
        bias = torch.zeros(keys.shape, dtype=dtype)
        return bias.masked_fill_(~keys, float('-inf')), keyless


def _prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    valid_h: int,
    valid_w: int,
    attend_padding: bool,
) -> Tuple[_Keys, Iterator[_Tile]]:
    mask = None
    if valid_h and not attend_padding:
        mask = valid_tokens(query.shape[1:5], (valid_h, valid_w), query.device)
    keys = _Keys(key, value, region_index, mask)
    return keys, _tiles(query.shape[1:5], len(query), valid_h, valid_w, keys.regions_per_tile)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    num_heads: int,
    scale: float,
    valid_h: int,
    valid_w: int,
    attend_padding: bool,
) -> Tuple[Tensor, Tensor]:
    """Return the output, and the log-sum-exp, (N, Sh, Sw, h, w, m)."""
    keys, tiles = _prepare(query, key, value, region_index, valid_h, valid_w, attend_padding)
    result, sums = _outputs(query, key, value, region_index, num_heads)
    for x in (result, sums):
        _clear_padding(x, valid_h, valid_w)
    for tile in tiles:
        _, (k, v) = keys.gather(tile)
        bias, keyless = keys.bias(tile, query.dtype)
        out, lse = cpu_flash.attend(tile.cut(query), k, v, num_heads, scale, bias)
        if keyless is not None:
            out = out.masked_fill(keyless, 0)
        tile.paste(out, result)
        tile.paste(lse, sums)
    return result, sums


def _backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    out: Tensor,
    sums: Tensor,
    num_heads: int,
    scale: float,
    valid_h: int,
    valid_w: int,
    attend_padding: bool,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    keys, tiles = _prepare(query, key, value, region_index, valid_h, valid_w, attend_padding)
    grads = _gradients(dout, query)
    _clear_padding(grads[0], valid_h, valid_w)
    for grad in grads[1:]:
        grad.zero_()
    for tile in tiles:
        rows, (k, v) = keys.gather(tile)
        bias, keyless = keys.bias(tile, query.dtype)
        do = tile.cut(dout)
        if keyless is not None:
            do = do.masked_fill(keyless, 0)
        dq, *dkv = cpu_flash.attend_backward(
            do, tile.cut(query), k, v, tile.cut(out), tile.cut(sums), num_heads, scale, bias
        )
        tile.paste(dq, grads[0])
        for total, part in zip(grads[1:], dkv):
            total = merge(total).view(keys.maps[0].shape)
            total.index_add_(0, rows, part.view(len(rows), -1))
    return grads


def _clear_padding(x: Tensor, valid_h: int, valid_w: int) -> None:
    if valid_h:
        x = merge(x)  # a view, because x lies in memory as a map
        x[:, valid_h:] = 0
        x[:, :, valid_w:] = 0


def _empty_map(query: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Return regions like those of ``query``, not filled, that lie in memory as a map."""
    n, sh, sw, h, w, _ = query.shape
    x = query.new_empty(n, sh, h, sw, w, channels, dtype=dtype)
    return x.transpose(2, 3)


def _outputs(
    query: Tensor, key: Tensor, value: Tensor, region_index: Tensor, num_heads: int, *_
) -> Tuple[Tensor, Tensor]:
    dtype = torch.promote_types(query.dtype, torch.float32)
    return (_empty_map(query, query.shape[-1], query.dtype), _empty_map(query, num_heads, dtype))


def _gradients(dout: Tensor, query: Tensor, *_) -> Tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (_empty_map(query, query.shape[-1], query.dtype) for _ in range(3))
    return dq, dk, dv


attend = register('chunked_attention', _forward, _backward, _outputs, _gradients)
