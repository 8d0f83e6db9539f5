"""Region-to-region routing (paper section 3.2, equations 3 and 4).

Shapes: N batch, S regions per side, h x w tokens per region, C channels,
k routed regions.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from . import fused
from .region import valid_tokens


@torch.no_grad()
def routing_index(
    query: Tensor, key: Tensor, topk: int, valid_size: Optional[Tuple[int, int]] = None
) -> Tensor:
    """Choose the k regions that the queries of each region attend to.

    All heads share the index, and no gradient flows through it. Means and affinities are computed
    in fp32 (fp64 for fp64 input), also under autocast, because half precision could overflow or
    reorder the regions.

    Args:
        query: (N, S, S, h, w, C).
        key: Same shape as ``query``.
        topk: Routed regions per region, k.
        valid_size: (H, W) or None. The means leave out tokens at or beyond it. A region without
            any other token is chosen last.

    Returns:
        int64, (N, S*S, k), by descending affinity. The order of equal affinities depends on the
        device.
    """
    if fused.routing_reason(query, key) is None:
        return fused.routing(query, key, topk, valid_size)
    with torch.autocast(query.device.type, enabled=False):
        query_mean, occupied = region_mean(query, valid_size)
        key_mean, _ = region_mean(key, valid_size)
        affinity = query_mean @ key_mean.transpose(1, 2)
        if occupied is not None:
            affinity = affinity.masked_fill(~occupied, float('-inf'))
        return affinity.topk(topk, dim=-1).indices


def region_mean(
    tokens: Tensor, valid_size: Optional[Tuple[int, int]] = None
) -> Tuple[Tensor, Optional[Tensor]]:
    """Average the tokens of each region (the region descriptors of equation 3).

    Args:
        tokens: (N, S, S, h, w, C).
        valid_size: (H, W) or None; tokens at or beyond it are left out.

    Returns:
        The means, (N, S*S, C), in fp32 or fp64, zero for regions without tokens; and a bool
        tensor (S*S), True for regions with tokens, or None without ``valid_size``.
    """
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    if valid_size is None:
        return _sum(tokens, dtype) / (tokens.shape[3] * tokens.shape[4]), None
    valid = valid_tokens(tokens.shape[1:5], valid_size, tokens.device)
    total = _sum(tokens.masked_fill(~valid.unsqueeze(-1), 0), dtype)
    count = valid.sum(dim=(2, 3), dtype=dtype).flatten()  # ONNX clips integers from opset 12 on
    return total / count.clamp(min=1).unsqueeze(-1), count > 0


def _sum(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum the tokens of each region: (N, S, S, h, w, C) -> (N, S*S, C)."""
    # On CPUs rows first, then columns is several times faster than both at once. The order of the
    # map spares an exported graph the transposition of partition().
    return tokens.transpose(2, 3).sum(dim=2, dtype=dtype).sum(dim=3).flatten(1, 2)
