"""Teach MMEngine's FLOP counter fused attention, PyTorch's and ours.

Without a handle it counts nothing for the attention's two matrix products, so
that the figure would depend on the backend.
"""

from math import prod
from typing import Any, List

from mmengine.analysis.complexity_analysis import _DEFAULT_SUPPORTED_FLOP_OPS
from mmengine.analysis.jit_handles import get_shape

from biformer_mm.ops.flops import multiplications


def register_flop_handles() -> None:
    """Count fused attention wherever MMEngine's counter is used.

    A handle that is already there is kept.
    """
    handles = {'aten::scaled_dot_product_attention': attention_flops}
    for name in ('region_attention', 'chunked_attention', 'dense_attention'):
        handles[f'biformer_mm::{name}'] = region_attention_flops
    for name, handle in handles.items():
        _DEFAULT_SUPPORTED_FLOP_OPS.setdefault(name, handle)


def attention_flops(inputs: List[Any], outputs: List[Any]) -> int:
    """Multiply-adds of softmax(Q K^T) V, by MMEngine's handle signature.

    Args:
        inputs: Traced q (..., L, d), k (..., S, d) and v (..., S, e).
        outputs: Unused.
    """
    query, key, value = (get_shape(x) for x in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def region_attention_flops(inputs: List[Any], outputs: List[Any]) -> int:
    """Multiply-adds of both products of a registered region attention.

    Args:
        inputs: Traced query (N, Sh, Sw, h, w, C), key, value and region_index
            (N, Sh*Sw, k), and more.
        outputs: Unused.
    """
    return 2 * multiplications(get_shape(inputs[0]), get_shape(inputs[3]))
