"""Let MMEngine's FLOP counter count fused attention, PyTorch's and ours.

Otherwise it does not count the attention's two matrix products, and the result
depends on the backend.
"""

from math import prod
from typing import Any, List

from mmengine.analysis.complexity_analysis import _DEFAULT_SUPPORTED_FLOP_OPS
from mmengine.analysis.jit_handles import get_shape

from biformer_mm.ops.flops import multiplications


def register_flop_handles() -> None:
    """Register handles for fused attention in MMEngine's counter, unless it has some."""
    handles = {'aten::scaled_dot_product_attention': attention_flops}
    for name in ('region_attention', 'chunked_attention', 'dense_attention'):
        handles[f'biformer_mm::{name}'] = region_attention_flops
    for name, handle in handles.items():
        _DEFAULT_SUPPORTED_FLOP_OPS.setdefault(name, handle)


def attention_flops(inputs: List[Any], outputs: List[Any]) -> int:
    """Count the multiply-adds of softmax(Q K^T) V, as a handle of MMEngine.

    Args:
        inputs: Traced q (..., L, d), k (..., S, d) and v (..., S, e).
        outputs: Unused.
    """
    query, key, value = (get_shape(x) for x in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def region_attention_flops(inputs: List[Any], outputs: List[Any]) -> int:
    """Count the multiply-adds of both products of a registered region attention.

    Args:
        inputs: Traced query (N, Sh, Sw, h, w, C), key, value, region_index
            (N, Sh*Sw, k), and others.
        outputs: Unused.
    """
    return 2 * multiplications(get_shape(inputs[0]), get_shape(inputs[3]))
