"""The specification of region attention: plain PyTorch in fp32, one step per line.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed regions, C channels,
m heads of d = C/m channels.
"""

from typing import Optional, Tuple

import torch
from einops import rearrange
from torch import Tensor

from ..region import flat_index, valid_tokens


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Return why this backend cannot serve the inputs, or None if it can."""
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
    """Compute region attention and return its attention maps, too.

    This is for tests and visualisation, as it holds k copies of keys and values and the whole
    attention maps. The arguments are those of :func:`biformer_mm.ops.region_attention`.

    Returns:
        The output, (N, Sh, Sw, h, w, C), in the dtype of ``query``; and the weights,
        (N, R, m, T, k*T), in fp32 or fp64. Entry [n, i, :, t, j*T+s] is the weight with which
        token t of region i attends to token s of region ``region_index[n, i, j]``.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (
            rearrange(x.to(dtype), 'n sh sw h w c -> n (sh sw) (h w) c')
            for x in (query, key, value)
        )
        mask = None
        if valid_size is not None:
            valid = valid_tokens(query.shape[1:5], valid_size, query.device)
            mask = rearrange(valid, 'sh sw h w -> (sh sw) (h w)')
            # What lies in the padding must not reach the sums, not even as 0 * nan.
            q = q.masked_fill(~mask.unsqueeze(-1), 0)
            if not attend_padding:
                k, v = (x.masked_fill(~mask.unsqueeze(-1), 0) for x in (k, v))

        k, v = (_gather(x, region_index) for x in (k, v))
        q, k, v = (rearrange(x, 'n r t (m d) -> n r m t d', m=num_heads) for x in (q, k, v))
        scores = (q * scale) @ k.transpose(-2, -1)  # (N, R, m, T, k*T)
        if mask is None or attend_padding:
            weights = scores.softmax(dim=-1)
        else:
            keys = rearrange(mask[region_index], 'n r k t -> n r 1 1 (k t)')
            weights = _masked_softmax(scores, keys)
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, :, None], 0)
        out = rearrange(weights @ v, 'n r m t d -> n r t (m d)')
        return out.reshape(query.shape).to(query.dtype), weights


def _gather(x: Tensor, region_index: Tensor) -> Tensor:
    """Gather the tokens of routed regions: (N, R, T, C), (N, R, k) -> (N, R, k*T, C)."""
    # Not x[...]: CPU threads add up its gradient in an order that varies.
    found = x.flatten(0, 1).index_select(0, flat_index(region_index))
    return found.unflatten(0, region_index.shape).flatten(2, 3)


def _masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Apply softmax to the kept entries; a row without any becomes zero."""
    empty = ~keep.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~(keep | empty), float('-inf'))
    return scores.softmax(dim=-1).masked_fill(empty, 0)
