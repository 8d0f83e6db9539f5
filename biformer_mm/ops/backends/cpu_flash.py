"""PyTorch's fused attention for CPUs, forward and backward.

These are the functions behind ``scaled_dot_product_attention``. Unlike that they return the
log-sum-exp, which the backward pass needs.

Shapes: B problems, L queries, M keys, C channels, m heads of d = C/m channels.
"""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor

_NAME = '_scaled_dot_product_flash_attention_for_cpu'
_forward: Any = getattr(torch.ops.aten, _NAME, None)
_backward: Any = getattr(torch.ops.aten, f'{_NAME}_backward', None)
AVAILABLE = _backward is not None and hasattr(torch.library, 'custom_op')


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, scale: float, bias: Optional[Tensor]
) -> Tuple[Tensor, Tensor]:
    """Let queries attend to keys.

    Args:
        query: (B, L, C).
        key: (B, M, C).
        value: (B, M, C).
        num_heads: Number of heads, m.
        scale: Factor on the dot products.
        bias: Added to the scores, (B, 1, 1 or L, M), or None.

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
    """Compute the gradients of query, key and value.

    ``dout`` is the gradient of ``out``. ``out`` and ``lse`` are the results of :func:`attend`, and
    the other arguments are its arguments.
    """
    dquery, dkey, dvalue = _backward(
        *(_heads(x, num_heads) for x in (dout, query, key, value, out)),
        lse.transpose(1, 2),
        0.0,
        False,
        attn_mask=bias,
        scale=scale,
    )
    return _tokens(dquery), _tokens(dkey), _tokens(dvalue)


def _heads(tokens: Tensor, num_heads: int) -> Tensor:
    """Split channels into heads: (B, L, C) -> (B, m, L, d)."""
    if tokens.stride(2) != 1:  # PyTorch's function would give a wrong result
        tokens = tokens.contiguous()
    return tokens.unflatten(2, (num_heads, -1)).transpose(1, 2)


def _tokens(heads: Tensor) -> Tensor:
    """Join heads: (B, m, L, d) -> (B, L, C)."""
    return heads.transpose(1, 2).flatten(2)
