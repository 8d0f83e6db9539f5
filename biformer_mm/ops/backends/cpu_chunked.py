"""Region attention that never holds k copies of keys and values, on CPUs.

A tile of query regions at a time, the routed regions are gathered into a
buffer that stays in the cache, and attended to by PyTorch's fused attention.
The backward pass gathers again instead of saving anything. Padding costs no
queries: a tile's regions have the same part of them on the map.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed
regions, C channels, m heads; B regions of a tile, with t tokens on the map.
"""

import threading
from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..region import merge, valid_tokens
from ..registration import register
from . import cpu_flash

# Of gathered keys and values. Much less costs calls, much more the cache.
TILE_BYTES = 8 << 20


class _Tile(NamedTuple):
    """Neighbouring regions of an image, and the part of each that takes part:
    its first ``h`` rows and ``w`` columns.
    """

    image: int
    rows: slice
    cols: slice
    h: int
    w: int

    def view(self, x: Tensor) -> Tensor:
        """(N, Sh, Sw, h, w, C) -> the tile's part of it."""
        return x[self.image, self.rows, self.cols, : self.h, : self.w]

    def cut(self, x: Tensor) -> Tensor:
        """(N, Sh, Sw, h, w, C) -> (B, t, C)."""
        return self.view(x).flatten(2, 3).flatten(0, 1)

    def paste(self, tokens: Tensor, x: Tensor) -> None:
        """Put (B, t, C) where :meth:`cut` takes it from."""
        part = self.view(x)
        part.copy_(tokens.view(part.shape))


def _tiles(
    region_shape: torch.Size, images: int, valid_h: int, valid_w: int, regions_per_tile: int
) -> Iterator[_Tile]:
    """All tokens on the map, in tiles: whole rows of regions, or parts of one."""
    sh, sw, h, w = region_shape
    valid_h, valid_w = valid_h or sh * h, valid_w or sw * w
    for image in range(images):
        for cols, tile_w in _spans(valid_w, w, regions_per_tile):
            high = max(1, regions_per_tile // (cols.stop - cols.start))
            for rows, tile_h in _spans(valid_h, h, high):
                yield _Tile(image, rows, cols, tile_h, tile_w)


def _spans(length: int, size: int, most: int) -> Iterator[Tuple[slice, int]]:
    """Cut ``length`` into regions of ``size`` and spans of up to ``most`` of
    them; a last, smaller region is a span of its own.
    """
    full, rest = divmod(length, size)
    for start in range(0, full, most):
        yield slice(start, min(start + most, full)), size
    if rest:
        yield slice(full, full + 1), rest


class _Scratch(threading.local):
    """Memory for a tile's keys and values that a thread keeps: allocated anew
    each time it would be faulted in anew, and fragment the heap.
    """

    def __init__(self) -> None:
        self.buffers = {}

    def get(self, count: int, rows: int, columns: int, dtype: torch.dtype) -> List[Tensor]:
        """``count`` unfilled tensors (rows, columns)."""
        size = count * rows * columns
        if dtype not in self.buffers or len(self.buffers[dtype]) < size:
            with torch.inference_mode(False):  # else training could not use it
                self.buffers[dtype] = torch.empty(size, dtype=dtype)
        return list(self.buffers[dtype][:size].view(count, rows, columns))


_scratch = _Scratch()


class _Keys:
    """Keys and values, handed out tile by tile."""

    def __init__(
        self, key: Tensor, value: Tensor, region_index: Tensor, mask: Optional[Tensor]
    ) -> None:
        n, sh, sw, h, w, c = key.shape
        self.mask = mask  # (Sh, Sw, h, w), which tokens are keys; or None
        self.index = region_index.unflatten(1, (sh, sw))
        self.channels = c
        # A row of a region is contiguous in a map: (N*Sh*h*Sw, w*C).
        self.maps = [self._rows(key), self._rows(value)]
        # Where in them each region's rows are, (N, R, h).
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
        """The rows of the regions routed to, and the keys and values there,
        (B, k*T, C), which last until the next call.
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
        """What to add to the scores, (B, 1, 1, k*T), and which regions have
        no key, (B, 1, 1); None and None where all tokens are keys.
        """
        if self.mask is None:
            return None, None
        index = self.index[tile.image, tile.rows, tile.cols].flatten(0, 1)
        keys = self.mask.flatten(2).flatten(0, 1)[index].flatten(1)
        keyless = ~keys.any(dim=1)[:, None, None]
        # A query without a key would be nan: let it attend, to be zeroed.
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
    """The output, and the log-sum-exp, (N, Sh, Sw, h, w, m)."""
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
    """Gradients of query, key and value."""
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
        x = merge(x)  # no copy: it is laid out as a map
        x[:, valid_h:] = 0
        x[:, :, valid_w:] = 0


def _empty_map(query: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Unfilled regions like ``query``'s, laid out as a map."""
    n, sh, sw, h, w, _ = query.shape
    x = query.new_empty(n, sh, h, sw, w, channels, dtype=dtype)
    return x.transpose(2, 3)


def _outputs(
    query: Tensor, key: Tensor, value: Tensor, region_index: Tensor, num_heads: int, *_
) -> Tuple[Tensor, Tensor]:
    dtype = torch.promote_types(query.dtype, torch.float32)
    return (_empty_map(query, query.shape[-1], query.dtype), _empty_map(query, num_heads, dtype))


def _gradients(dout: Tensor, query: Tensor, *_) -> Tuple[Tensor, ...]:
    return tuple(_empty_map(query, query.shape[-1], query.dtype) for _ in range(3))


attend = register('chunked_attention', _forward, _backward, _outputs, _gradients)
