"""Region attention in operations that every exporter and runtime knows.

Graphs that a tracer makes of it, also for ONNX from opset 11 on, take any batch and map size. It
splits heads before the gather, and scales the queries only, so that nothing but the gather itself
and the products pass over the k copies of the keys.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed regions, C channels,
m heads of d = C/m channels.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..region import valid_tokens


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
    """See :func:`biformer_mm.ops.region_attention`; half precision is computed in fp32."""
    # The layer's settings are constants of a traced graph. Batch and map size stay variable.
    rows, columns, channels = (int(query.shape[i]) for i in (1, 2, 5))
    topk, head_dim = int(region_index.shape[2]), channels // num_heads
    n, h, w = query.shape[0], query.shape[3], query.shape[4]
    regions, tokens = rows * columns, h * w
    dtype = torch.promote_types(query.dtype, torch.float32)
    valid, used = None, (rows, columns)
    if valid_size is not None:
        # Regions that are all padding have no queries.
        used = (valid_size[0] + h - 1) // h, (valid_size[1] + w - 1) // w
        query = query[:, : used[0], : used[1]]
        region_index = region_index.view(n, rows, columns, topk)[:, : used[0], : used[1]]
        region_index = region_index.reshape(n, -1, topk)
        valid = valid_tokens((rows, columns, h, w), valid_size, query.device)
        padding = ~valid.unsqueeze(-1)  # zeroed, because 0 * nan would reach the sums
        if not attend_padding:
            key, value = (x.masked_fill(padding, 0) for x in (key, value))
        padding = padding[: used[0], : used[1]]
        query = query.masked_fill(padding, 0)

    if regions > 1:
        first = torch.arange(n, device=query.device).view(-1, 1, 1) * regions
        index = (first + region_index).view(n, -1, 1, topk) * num_heads
        index = (index + torch.arange(num_heads, device=query.device).view(-1, 1)).flatten()

    def heads(x: Tensor) -> Tensor:
        # From the order of the map, so that a graph has one transposition for this and partition().
        x = x.to(dtype).transpose(2, 3)
        return x.view(*x.shape[:5], num_heads, head_dim).permute(0, 1, 3, 5, 2, 4, 6)

    def routed(x: Tensor) -> Tensor:
        x = heads(x)
        if regions > 1:
            x = x.reshape(-1, tokens, head_dim).index_select(0, index)
        return x.reshape(n, -1, num_heads, topk * tokens, head_dim)  # (N, R, m, k*T, d)

    q = (heads(query) * scale).reshape(n, -1, num_heads, tokens, head_dim)
    scores = q @ routed(key).transpose(-1, -2)  # (N, R, m, T, k*T)
    keyless = None
    if valid is not None and not attend_padding:
        keys = valid.view(regions, -1).index_select(0, region_index.flatten())
        keys = keys.view(n, -1, 1, 1, topk * tokens)
        keyless = ~keys.any(dim=-1, keepdim=True)
        # A query without a key would give nan: let it attend to all, then zero its output.
        scores = scores.masked_fill(~(keys | keyless), float('-inf'))
    out = scores.softmax(dim=-1) @ routed(value)  # (N, R, m, T, d)
    if keyless is not None:
        out = out.masked_fill(keyless, 0)
    out = out.view(n, *used, num_heads, h, w, head_dim).permute(0, 1, 4, 2, 5, 3, 6)
    out = out.reshape(n, used[0], h, used[1], w, channels).transpose(2, 3).to(query.dtype)
    if valid is None:
        return out
    bottom, right = rows - used[0], columns - used[1]
    out = out.masked_fill(padding, 0)
    return F.pad(out, (0, 0, 0, 0, 0, 0, 0, right, 0, bottom))
