"""Region attention as PyTorch's fused attention after a gather of the routed regions.

Regions that are contiguous in memory are gathered with one block copy per routed region; other
strides cost one more copy. A single region (full attention) needs no gather.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed
regions, C channels, m heads of d = C/m channels.
"""

from functools import lru_cache
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..region import flat_index, valid_tokens
from . import cpu_flash


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Return why this backend cannot serve the inputs, or None if it can."""
    if query.device.type == 'cpu' and query.dtype == torch.float16 and not _half_runs_on_cpu():
        return f'PyTorch {torch.__version__} has no fp16 attention on the CPU'
    if query.device.type == 'cpu' and query.dtype == torch.bfloat16 and not cpu_flash.AVAILABLE:
        # The gradient is written beyond the end of its memory: pytorch/pytorch#132871.
        return f'PyTorch {torch.__version__} has no sound bf16 attention on the CPU, 2.4 has'
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
    regions = query.shape[1] * query.shape[2]
    q, k, v = (x.flatten(3, 4).flatten(0, 2) for x in (query, key, value))
    mask = None
    if valid_size is not None:
        valid = valid_tokens(query.shape[1:5], valid_size, query.device)
        mask = valid.flatten(2).flatten(0, 1)  # (R, T)
        q = _clear_padding(q, mask)
        if not attend_padding:
            k, v = (_clear_padding(x, mask) for x in (k, v))
    if regions > 1:
        rows = flat_index(region_index)
        k, v = (x.index_select(0, rows) for x in (k, v))

    # One attention problem per region of the batch: (N*R, m, T or k*T, d).
    q, k, v = (
        x.reshape(q.shape[0], -1, num_heads, x.shape[-1] // num_heads).transpose(1, 2)
        for x in (q, k, v)
    )
    if mask is None or attend_padding:
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    else:
        keys = mask[region_index].flatten(2).flatten(0, 1)  # (N*R, k*T)
        keyless = ~keys.any(dim=-1)[:, None, None, None]
        # A query without a key would give nan: let it attend to all, then zero its output.
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=keys[:, None, None] | keyless, scale=scale
        )
        out = out.masked_fill(keyless, 0)
    if mask is not None:
        queries = mask.repeat(region_index.shape[0], 1)[:, None, :, None]
        out = out.masked_fill(~queries, 0)
    return out.transpose(1, 2).reshape(query.shape)


@lru_cache(maxsize=None)
def _half_runs_on_cpu() -> bool:
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float16)
    try:
        F.scaled_dot_product_attention(x, x, x)
    except RuntimeError:
        return False
    return True


def _clear_padding(x: Tensor, mask: Tensor) -> Tensor:
    """Zero the padding, because 0 * nan would reach the sums."""
    mask = mask.repeat(x.shape[0] // mask.shape[0], 1)
    return x.masked_fill(~mask.unsqueeze(-1), 0)
