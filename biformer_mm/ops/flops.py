"""What PyTorch's FLOP counter counts for a registered region attention."""
from math import prod
from typing import Tuple

import torch


def count_flops(name: str) -> None:
    """Let ``FlopCounterMode`` count ``torch.ops.biformer_mm.<name>``.

    By its rule for PyTorch's own attention: a multiplication and an addition
    are two, forward has two matrix products and backward five, as the weights
    are computed anew. Needs PyTorch 2.4.
    """
    from torch.utils.flop_counter import register_flop_formula

    ops = torch.ops.biformer_mm

    @register_flop_formula(getattr(ops, name))
    def forward(query, key, value, region_index, *args, **kwargs) -> int:
        return 2 * 2 * multiplications(query, region_index)

    @register_flop_formula(getattr(ops, f'{name}_backward'))
    def backward(dout, query, key, value, region_index, *args,
                 **kwargs) -> int:
        return 5 * 2 * multiplications(query, region_index)


def multiplications(query: Tuple[int, ...], region_index: Tuple[int,
                                                                ...]) -> int:
    """Those of one of attention's two matrix products, all heads together.

    Args:
        query: Shape, (N, Sh, Sw, h, w, C).
        region_index: Shape, (N, Sh*Sw, k).
    """
    tokens, topk = query[3] * query[4], region_index[2]
    return prod(query) * topk * tokens
