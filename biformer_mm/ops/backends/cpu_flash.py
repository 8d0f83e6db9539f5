"""PyTorch's fused attention for CPUs, with the log-sum-exp that its backward
pass needs: what ``scaled_dot_product_attention`` calls there.

Shapes: B problems, L queries, M keys, C channels, m heads of d = C/m channels.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

_forward, _backward = (
    getattr(torch.ops.aten, f'_scaled_dot_product_flash_attention_for_cpu{suffix}', None)
    for suffix in ('', '_backward')
)
AVAILABLE = _backward is not None and hasattr(torch.library, 'custom_op')


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, scale: float, bias: Optional[Tensor]
) -> Tuple[Tensor, Tensor]:
    """Attend.

    Args:
        query: (B, L, C).
        key, value: (B, M, C).
        num_heads: Heads, m.
        scale: Factor on the dot products.
        bias: Summand of the scores, (B, 1, 1 or L, M), or None.

    Returns:
        The output, (B, L, C), and the log-sum-exp, (B, L, m).
    """
    out, lse = _forward(
        *(_heads(x, num_heads) for x in (query, key, value)), attn_mask=bias, scale=scale
    )
    return _tokens(out), lse.transpose(1, 2)


def attend_backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    num_heads: int,
    scale: float,
    bias: Optional[Tensor],
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, each of its tensor's shape.

    Args:
        dout: Gradient of ``out``.
        query, key, value, num_heads, scale, bias: As in :func:`attend`.
        out, lse: What :func:`attend` returned.
    """
    grads = _backward(
        *(_heads(x, num_heads) for x in (dout, query, key, value, out)),
        lse.transpose(1, 2),
        0.0,
        False,
        attn_mask=bias,
        scale=scale,
    )
    return tuple(_tokens(x) for x in grads)


def _heads(tokens: Tensor, num_heads: int) -> Tensor:
    """(B, L, C) -> (B, m, L, d), channels contiguous: with other strides
    PyTorch's function gives a wrong result.
    """
    if tokens.stride(2) != 1:
        tokens = tokens.contiguous()
    return tokens.unflatten(2, (num_heads, -1)).transpose(1, 2)


def _tokens(heads: Tensor) -> Tensor:
    """(B, m, L, d) -> (B, L, C)."""
    return heads.transpose(1, 2).flatten(2)
