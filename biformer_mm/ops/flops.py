"""What PyTorch's FLOP counter counts for the registered ops.

By its rules for PyTorch's own ops: a multiplication and an addition are two.
Functions here take shapes in the place of tensors.
"""

from math import prod
from typing import Callable, Tuple

import torch

Shape = Tuple[int, ...]


def count_flops(name: str, formula: Callable) -> None:
    """Let ``FlopCounterMode`` count ``torch.ops.biformer_mm.<name>``.

    Args:
        name: Of the op.
        formula: Takes the op's arguments; returns FLOPs.
    """
    from torch.utils.flop_counter import register_flop_formula

    register_flop_formula(getattr(torch.ops.biformer_mm, name))(formula)


def attention(query: Shape, key: Shape, value: Shape, region_index: Shape, *args, **kwargs) -> int:
    """Of two matrix products."""
    return 2 * 2 * multiplications(query, region_index)


def attention_backward(
    dout: Shape, query: Shape, key: Shape, value: Shape, region_index: Shape, *args, **kwargs
) -> int:
    """Of five matrix products, as the weights are computed anew."""
    return 5 * 2 * multiplications(query, region_index)


def multiplications(query: Shape, region_index: Shape) -> int:
    """Those of one of attention's two matrix products, all heads together.

    Args:
        query: Shape, (N, Sh, Sw, h, w, C).
        region_index: Shape, (N, Sh*Sw, k).
    """
    tokens, topk = query[3] * query[4], region_index[2]
    return prod(query) * topk * tokens


def depthwise(x: Shape, weight: Shape, *args, **kwargs) -> int:
    """Of a depth-wise convolution of an NHWC map.

    Args:
        x: Shape of the result, (N, H, W, C).
        weight: Shape, (C, 1, K, K).
    """
    return 2 * prod(x) * prod(weight[1:])


def routing(query: Shape) -> int:
    """Of the product of the regions' means.

    Args:
        query: Shape, (N, Sh, Sw, h, w, C).
    """
    n, sh, sw, _, _, channels = query
    return 2 * n * (sh * sw) ** 2 * channels
