"""Formulas of the registered ops for PyTorch's FLOP counter.

As for PyTorch's own ops, a multiplication and an addition count as two. The functions take shapes
in place of tensors.
"""

from math import prod
from typing import Callable, Tuple

import torch

Shape = Tuple[int, ...]


def count_flops(name: str, formula: Callable) -> None:
    """Make ``FlopCounterMode`` count ``torch.ops.biformer_mm.<name>``.

    Args:
        name: Name of the op.
        formula: Function that takes the op's arguments and returns FLOPs.
    """
    from torch.utils.flop_counter import register_flop_formula

    register_flop_formula(getattr(torch.ops.biformer_mm, name))(formula)


def attention(query: Shape, key: Shape, value: Shape, region_index: Shape, *args, **kwargs) -> int:
    """Count the two matrix products of attention."""
    return 2 * 2 * multiplications(query, region_index)


def attention_backward(
    dout: Shape, query: Shape, key: Shape, value: Shape, region_index: Shape, *args, **kwargs
) -> int:
    """Count five matrix products: the backward pass computes the weights again."""
    return 5 * 2 * multiplications(query, region_index)


def multiplications(query: Shape, region_index: Shape) -> int:
    """Count the multiplications of one of attention's two matrix products, over all heads.

    Args:
        query: Shape, (N, Sh, Sw, h, w, C).
        region_index: Shape, (N, Sh*Sw, k).
    """
    tokens, topk = query[3] * query[4], region_index[2]
    return prod(query) * topk * tokens


def depthwise(x: Shape, weight: Shape) -> int:
    """Count a depth-wise convolution of an NHWC map.

    Args:
        x: Shape of the result, (N, H, W, C).
        weight: Shape, (C, 1, K, K).
    """
    return 2 * prod(x) * prod(weight[1:])


def routing(query: Shape) -> int:
    """Count the product of the regions' means.

    Args:
        query: Shape, (N, Sh, Sw, h, w, C).
    """
    n, sh, sw, _, _, channels = query
    return 2 * n * (sh * sw) ** 2 * channels
