"""Teach MMEngine's FLOP counter PyTorch's fused attention.

Without a handle it counts nothing for the attention's two matrix products, so
that the figure would depend on the backend.
"""
from math import prod
from typing import Any, List

from mmengine.analysis.complexity_analysis import _DEFAULT_SUPPORTED_FLOP_OPS
from mmengine.analysis.jit_handles import get_shape


def register_flop_handles() -> None:
    """Count fused attention wherever MMEngine's counter is used.

    A handle that is already there is kept.
    """
    _DEFAULT_SUPPORTED_FLOP_OPS.setdefault(
        'aten::scaled_dot_product_attention', attention_flops)


def attention_flops(inputs: List[Any], outputs: List[Any]) -> int:
    """Multiply-adds of softmax(Q K^T) V, by MMEngine's handle signature.

    Args:
        inputs: Traced q (..., L, d), k (..., S, d) and v (..., S, e).
        outputs: Unused.
    """
    query, key, value = (get_shape(x) for x in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
