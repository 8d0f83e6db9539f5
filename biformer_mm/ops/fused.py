"""A block's other ops as Triton kernels: LayerNorm, depth-wise convolution,
routing, and attention with LCE.

Like attention they follow the user's choice of a backend, and give way to
PyTorch's ops wherever they cannot run: ask :func:`unsupported_reason` first.
Each computes what :mod:`.block_reference` says, routing what
:func:`.routing.routing_index` says.
"""

from importlib.util import find_spec
from typing import Optional, Tuple

from torch import Tensor

from .dispatch import default_backend
from .tracing import is_compiling, is_for_others

# Programs of the kernels hold whole tokens and whole rows of affinities.
MAX_CHANNELS, MAX_REGIONS = 4096, 512
_HAS_TRITON = find_spec('triton') is not None
if _HAS_TRITON:
    # At once: a FLOP counter knows the ops that are registered before it.
    from .backends import (
        triton_block,
        triton_depthwise,
        triton_layer_norm,
        triton_lce,
        triton_routing,
    )


def unsupported_reason(x: Tensor) -> Optional[str]:
    """Say why the kernels cannot serve a map; None if they can."""
    if not x.is_cuda:  # first, as every layer on a CPU asks
        return f'its kernels run on GPUs, not on {x.device.type}'
    if not _HAS_TRITON:
        return 'Triton is not installed'
    if is_for_others():
        return "an exported graph is to have none but PyTorch's ops"
    if default_backend() not in ('auto', 'triton'):
        return f'the backend {default_backend()!r} was chosen'
    return triton_block.unsupported_reason(x)


def norm_reason(x: Tensor, *others: Tensor) -> Optional[str]:
    """Say why LayerNorm of a map, or of its sum with others, cannot be
    fused; None if it can.
    """
    if is_compiling():
        return 'the compiler fuses it with what is around it'
    if any(y.shape != x.shape or y.dtype != x.dtype for y in others):
        return 'the summands differ in shape or dtype'
    if x.shape[-1] > MAX_CHANNELS:
        return f'its kernels take up to {MAX_CHANNELS} channels'
    return unsupported_reason(x)


def depthwise_reason(x: Tensor, added: Tensor) -> Optional[str]:
    """Say why :func:`add_depthwise` cannot serve; None if it can."""
    if x.is_cuda and x.dtype != added.dtype:
        return 'the summands differ in dtype'
    return unsupported_reason(x)


def routing_reason(query: Tensor, key: Tensor) -> Optional[str]:
    """Say why :func:`routing` cannot serve; None if it can."""
    if query.shape[1] * query.shape[2] > MAX_REGIONS:
        return f'its kernels take up to {MAX_REGIONS} regions'
    if query.dtype != key.dtype:
        return 'queries and keys differ in dtype'
    return unsupported_reason(query)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise over the channels: (..., C) -> (..., C), in x's dtype."""
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
    """Attend to routed regions and add LCE: see :mod:`.block_reference`."""
    return triton_lce.attention_with_lce(
        qkv, weight, bias, region_index, num_regions, num_heads, scale, height, width, masked
    )[0]


def routing(query: Tensor, key: Tensor, topk: int, valid_size: Optional[Tuple[int, int]]) -> Tensor:
    """Choose the best k regions of each: (N, S*S, k). Of equal ones the lower
    number comes first.
    """
    return triton_routing.routing(query, key, topk, *(valid_size or (0, 0)))
