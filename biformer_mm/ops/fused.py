"""Fused ops of a block: LayerNorm, depth-wise convolution, routing, attention with LCE.

They are Triton kernels and follow the user's choice of a backend, as attention does. Ask the
function ``..._reason`` first whether an op can serve the inputs, and use PyTorch's ops if not.
The ops are specified by :mod:`.backends.block_reference`, routing by
:func:`.routing.routing_index`.
"""

from importlib.util import find_spec
from typing import Optional, Tuple

from torch import Tensor

from .dispatch import default_backend
from .tracing import is_compiling, is_for_others

# One program of a kernel holds whole tokens, or whole rows of affinities.
MAX_CHANNELS, MAX_REGIONS = 4096, 512
_HAS_TRITON = find_spec('triton') is not None
if _HAS_TRITON:
    # Not later: a FLOP counter only counts ops that are registered before it is made.
    from .backends import (
        triton_block,
        triton_depthwise,
        triton_layer_norm,
        triton_lce,
        triton_routing,
    )


def unsupported_reason(x: Tensor) -> Optional[str]:
    """Return why the kernels cannot serve a map, or None if they can."""
    if not x.is_cuda:  # first, as each layer on a CPU gets here
        return f'its kernels run on GPUs, not on {x.device.type}'
    if not _HAS_TRITON:
        return 'Triton is not installed'
    if is_for_others():
        return "an exported graph may only contain PyTorch's ops"
    if default_backend() not in ('auto', 'triton'):
        return f'the backend {default_backend()!r} was chosen'
    return triton_block.unsupported_reason(x)


def norm_reason(x: Tensor, *others: Tensor) -> Optional[str]:
    """Return why LayerNorm of a map, or of its sum with others, cannot be fused, or None."""
    if is_compiling():
        return 'the compiler fuses it with the ops around it'
    if any(y.shape != x.shape or y.dtype != x.dtype for y in others):
        return 'the summands differ in shape or dtype'
    if x.shape[-1] > MAX_CHANNELS:
        return f'its kernels take up to {MAX_CHANNELS} channels'
    return unsupported_reason(x)


def depthwise_reason(x: Tensor, added: Tensor) -> Optional[str]:
    """Return why :func:`add_depthwise` cannot serve two maps, or None if it can."""
    if x.is_cuda and x.dtype != added.dtype:
        return 'the summands differ in dtype'
    return unsupported_reason(x)


def routing_reason(query: Tensor, key: Tensor) -> Optional[str]:
    """Return why :func:`routing` cannot serve queries and keys, or None if it can."""
    if query.shape[1] * query.shape[2] > MAX_REGIONS:
        return f'its kernels take up to {MAX_REGIONS} regions'
    if query.dtype != key.dtype:
        return 'queries and keys differ in dtype'
    return unsupported_reason(query)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise over the channels: (..., C) -> (..., C), in the dtype of ``x``."""
    return triton_layer_norm.layer_norm(x, weight, bias, eps)[0]


def add_layer_norm(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tuple[Tensor, Tensor]:
    """Return the sum of two maps and the normalised sum, (..., C) each."""
    return triton_layer_norm.add_layer_norm(x, added, weight, bias, eps)[:2]


def add_depthwise(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
    """Add a depth-wise convolution of a map to another map, both NHWC."""
    return triton_depthwise.add_depthwise(x, weight, bias, added)


def attention_with_lce(
    qkv: Tensor,
    weight: Tensor,
    bias: Tensor,
    region_index: Tensor,
    num_regions: int,
    num_heads: int,
    scale: float,
    height: int,
    width: int,
    masked: bool,
) -> Tensor:
    """Attend to routed regions and add LCE; see :mod:`.backends.block_reference`."""
    return triton_lce.attention_with_lce(
        qkv, weight, bias, region_index, num_regions, num_heads, scale, height, width, masked
    )[0]


def routing(query: Tensor, key: Tensor, topk: int, valid_size: Optional[Tuple[int, int]]) -> Tensor:
    """Choose the best k regions of each region: (N, S*S, k).

    Of equal affinities the region with the lower number comes first.
    """
    return triton_routing.routing(query, key, topk, *(valid_size or (0, 0)))
