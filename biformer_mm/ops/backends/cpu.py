"""Region attention on CPUs, in the way that suits the shapes.

A single region needs no gather. On a small map, attention over the whole map under a mask is
faster than a gather. Otherwise the routed regions are gathered one chunk at a time.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from . import cpu_chunked, cpu_dense, cpu_flash, sdpa

# Up to this many tokens of the map per routed region, attention covers the whole map. There both
# ways take about the same time, for regions of 1 to 16 tokens.
DENSE_TOKENS_PER_ROUTE = 32


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Return why this backend cannot serve the inputs, or None if it can."""
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

    In memory the output is a map, (N, Sh*h, Sw*w, C).
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
