"""The specification of region attention: plain, fp32, one step a line.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed
regions, C channels, m heads of d = C/m channels.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from ..region import flat_index, valid_tokens


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Why this backend cannot serve such inputs; None where it can."""
    return None


def region_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    *,
    num_heads: int,
    scale: float,
    valid_size: Optional[Tuple[int, int]],
    attend_padding: bool,
) -> Tensor:
    """See :func:`biformer_mm.ops.region_attention`."""
    return region_attention_with_weights(
        query,
        key,
        value,
        region_index,
        num_heads=num_heads,
        scale=scale,
        valid_size=valid_size,
        attend_padding=attend_padding,
    )[0]


def region_attention_with_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    *,
    num_heads: int,
    scale: float,
    valid_size: Optional[Tuple[int, int]] = None,
    attend_padding: bool = False,
) -> Tuple[Tensor, Tensor]:
    """Region attention that also returns its attention maps.

    Meant for tests and visualisation: it holds k copies of the keys and
    values and the whole maps.

    Args:
        query, key, value, region_index, num_heads, scale, valid_size,
            attend_padding: As in :func:`biformer_mm.ops.region_attention`.

    Returns:
        The output, (N, Sh, Sw, h, w, C), in ``query``'s dtype; and the
        weights, (N, R, m, T, k*T), in fp32 or fp64: entry [n, i, :, t, j*T+s]
        is what token t of region i gives to token s of region
        ``region_index[n, i, j]``.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (
            x.to(dtype).flatten(3, 4).flatten(1, 2) for x in (query, key, value)
        )  # (N, R, T, C)
        mask = None
        if valid_size is not None:
            mask = valid_tokens(query.shape[1:5], valid_size, query.device)
            mask = mask.flatten(2).flatten(0, 1)  # (R, T)
            # What lies in the padding must not reach the sums even as 0 * nan.
            q = q.masked_fill(~mask.unsqueeze(-1), 0)
            if not attend_padding:
                k, v = (x.masked_fill(~mask.unsqueeze(-1), 0) for x in (k, v))

        q = _split_heads(q, num_heads)
        k, v = (_split_heads(_gather(x, region_index), num_heads) for x in (k, v))
        scores = (q * scale) @ k.transpose(-2, -1)  # (N, R, m, T, k*T)
        if mask is None or attend_padding:
            weights = scores.softmax(dim=-1)
        else:
            keys = mask[region_index].flatten(2)[:, :, None, None]
            weights = _masked_softmax(scores, keys)
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, :, None], 0)
        out = (weights @ v).transpose(2, 3)  # (N, R, T, m, d)
        return out.reshape(query.shape).to(query.dtype), weights


def _gather(x: Tensor, region_index: Tensor) -> Tensor:
    """(N, R, T, C) and (N, R, k) -> the routed tokens, (N, R, k*T, C)."""
    # The gradient of x[...] is summed in any order by a CPU's threads.
    found = x.flatten(0, 1).index_select(0, flat_index(region_index))
    return found.unflatten(0, region_index.shape).flatten(2, 3)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(N, R, L, C) -> (N, R, m, L, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(2, 3)


def _masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Softmax over the kept entries; all zero where none is kept."""
    empty = ~keep.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~(keep | empty), float('-inf'))
    return scores.softmax(dim=-1).masked_fill(empty, 0)
