"""Region attention on CPUs, gathering as little as the shapes allow.

A single region needs no gather. On a small map whole-map attention under a
mask takes less time than a gather. Elsewhere the routed regions are gathered
a chunk at a time.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from . import cpu_chunked, cpu_dense, cpu_flash, sdpa

# Maps of up to this many tokens per routed region are attended to as a whole:
# about where both ways take the same time, for regions of 1 to 16 tokens.
DENSE_TOKENS_PER_ROUTE = 32


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Why this backend cannot serve such inputs; None where it can."""
    if query.device.type != 'cpu':
        return f'it runs on CPUs, not on {query.device.type}'
    if not cpu_flash.AVAILABLE:
        return f'it needs PyTorch 2.4, not {torch.__version__}'
    return sdpa.unsupported_reason(query, num_heads)


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
    """See :func:`biformer_mm.ops.region_attention`.

    The output is laid out in memory as a map, (N, Sh*h, Sw*w, C).
    """
    if query.shape[1] * query.shape[2] == 1:
        return sdpa.region_attention(
            query,
            key,
            value,
            region_index,
            num_heads=num_heads,
            scale=scale,
            valid_size=valid_size,
            attend_padding=attend_padding,
        )
    tokens = query[0, ..., 0].numel()
    dense = tokens <= DENSE_TOKENS_PER_ROUTE * region_index.shape[2]
    attend = cpu_dense.attend if dense else cpu_chunked.attend
    valid_h, valid_w = valid_size or (0, 0)
    return attend(
        query, key, value, region_index, num_heads, scale, valid_h, valid_w, attend_padding
    )[0]
