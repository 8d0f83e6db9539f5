"""Region attention as attention over the whole map, under a mask.

It needs no gather, but scores all pairs of tokens, so it suits small maps.

Shapes: N batch, R = Sh*Sw regions, L = Sh*h*Sw*w tokens, k routed regions, C channels, m heads.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from ..region import merge, valid_tokens
from ..registration import register
from . import cpu_flash


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
    """Return the output, and the log-sum-exp, (N, L, m)."""
    valid = _valid(query, valid_h, valid_w)
    bias, idle = _mask(region_index, query, valid, attend_padding)
    q, k, v = _maps(query, key, value, valid, attend_padding)
    out, lse = cpu_flash.attend(q, k, v, num_heads, scale, bias)
    if idle is not None:
        out = out.masked_fill(idle, 0)
    return _regions(out, query), lse.contiguous()


def _backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    out: Tensor,
    lse: Tensor,
    num_heads: int,
    scale: float,
    valid_h: int,
    valid_w: int,
    attend_padding: bool,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    valid = _valid(query, valid_h, valid_w)
    bias, idle = _mask(region_index, query, valid, attend_padding)
    q, k, v = _maps(query, key, value, valid, attend_padding)
    dout, out = (merge(x).flatten(1, 2) for x in (dout, out))
    if idle is not None:
        dout = dout.masked_fill(idle, 0)
    dq, dk, dv = cpu_flash.attend_backward(dout, q, k, v, out, lse, num_heads, scale, bias)
    return _regions(dq, query), _regions(dk, query), _regions(dv, query)


def _valid(query: Tensor, valid_h: int, valid_w: int) -> Optional[Tensor]:
    """Return which tokens are on the map, (L), or None for all of them."""
    if not valid_h:
        return None
    valid = valid_tokens(query.shape[1:5], (valid_h, valid_w), query.device)
    return valid.transpose(1, 2).flatten()


def _maps(
    query: Tensor, key: Tensor, value: Tensor, valid: Optional[Tensor], attend_padding: bool
) -> Tuple[Tensor, ...]:
    """Join regions to maps, with unused padding zeroed: (N, Sh, Sw, h, w, C) -> (N, L, C)."""
    maps = [merge(x).flatten(1, 2) for x in (query, key, value)]
    if valid is not None:
        padding = ~valid[:, None]  # zeroed, as 0 * nan would reach the sums
        for i in range(1 if attend_padding else 3):
            maps[i] = maps[i].masked_fill(padding, 0)
    return tuple(maps)


def _regions(tokens: Tensor, query: Tensor) -> Tensor:
    """View tokens in the shape of ``query``: (N, L, C) -> (N, Sh, Sw, h, w, C)."""
    n, sh, sw, h, w, c = query.shape
    return tokens.view(n, sh, h, sw, w, c).transpose(2, 3)


def _mask(
    region_index: Tensor, query: Tensor, valid: Optional[Tensor], attend_padding: bool
) -> Tuple[Tensor, Optional[Tensor]]:
    """Make the mask of attention over the whole map.

    Returns:
        What to add to the scores, (N, 1, L, L); and which queries give zero because they are
        padding or have no key, bool, (N, L, 1), or None for none of them.
    """
    n, sh, sw, h, w, _ = query.shape
    region = torch.arange(sh * sw).view(sh, 1, sw, 1)
    region = region.expand(sh, h, sw, w).flatten()
    # A region that is listed twice counts twice, as in a gather.
    times = torch.zeros(n, sh * sw, sh * sw)
    times.scatter_add_(2, region_index.long(), torch.ones(region_index.shape))
    bias = times.log().to(query.dtype)[:, region][:, :, region]
    idle = None
    if valid is not None:
        if not attend_padding:
            bias = bias.masked_fill(~valid, float('-inf'))
        keyless = bias.isneginf().all(dim=2, keepdim=True)
        idle = keyless | ~valid[:, None]
        bias = bias.masked_fill(keyless, 0)  # or the softmax would give nan
    return bias.unsqueeze(1), idle


def _outputs(
    query: Tensor, key: Tensor, value: Tensor, region_index: Tensor, num_heads: int, *_
) -> Tuple[Tensor, Tensor]:
    n, sh, sw, h, w, c = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    return (
        _regions(query.new_empty(n, sh * h * sw * w, c), query),
        query.new_empty(n, sh * h * sw * w, num_heads, dtype=dtype),
    )


def _gradients(dout: Tensor, query: Tensor, *_) -> Tuple[Tensor, ...]:
    n, sh, sw, h, w, c = query.shape
    return tuple(_regions(query.new_empty(n, sh * h * sw * w, c), query) for _ in range(3))


attend = register('dense_attention', _forward, _backward, _outputs, _gradients)
