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


def unsupported_reason(x: Tensor) -> Optional[str]:
    """Why the kernels must not serve a map; None where they may."""
    if not x.is_cuda:  # first, as every layer on a CPU asks
        return f'its kernels run on GPUs, not on {x.device.type}'
    if not _HAS_TRITON:
        return 'Triton is not installed'
    if is_for_others():
        return "an exported graph is to have none but PyTorch's ops"
    if default_backend() not in ('auto', 'triton'):
        return f'the backend {default_backend()!r} was chosen'
    from . import triton_block
    return triton_block.unsupported_reason(x)


def norm_reason(x: Tensor, *others: Tensor) -> Optional[str]:
    """Why LayerNorm must not be fused, of a map or of its sum with another;
    None where it may."""
    if not x.is_cuda:
        return f'its kernels run on GPUs, not on {x.device.type}'
    if is_compiling():
        return 'the compiler fuses it with what is around it'
    if any(y.shape != x.shape or y.dtype != x.dtype for y in others):
        return 'the summands differ in shape or dtype'
    if x.shape[-1] > MAX_CHANNELS:
        return f'its kernels take up to {MAX_CHANNELS} channels'
    return unsupported_reason(x)


def depthwise_reason(x: Tensor, added: Tensor) -> Optional[str]:
    """Why a convolution must not be fused with a sum; None where it may."""
    if x.is_cuda and x.dtype != added.dtype:
        return 'the summands differ in dtype'
    return unsupported_reason(x)


def routing_reason(query: Tensor, key: Tensor) -> Optional[str]:
    """Why routing must not be fused; None where it may."""
    if query.shape[1] * query.shape[2] > MAX_REGIONS:
        return f'its kernels take up to {MAX_REGIONS} regions'
    if query.dtype != key.dtype:
        return 'queries and keys differ in dtype'
    return unsupported_reason(query)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(..., C) -> (..., C) in the dtype of ``x``."""
    from . import triton_layer_norm
    return triton_layer_norm.layer_norm(x, weight, bias, eps)[0]


def add_layer_norm(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor,
                   eps: float) -> Tuple[Tensor, Tensor]:
    """The sum of two maps, and the normalised sum."""
    from . import triton_layer_norm
    return triton_layer_norm.add_layer_norm(x, added, weight, bias, eps)[:2]


def add_depthwise(x: Tensor, weight: Tensor, bias: Tensor,
                  added: Tensor) -> Tensor:
    """Add a depth-wise convolution of a map to another map, both NHWC."""
    from . import triton_depthwise
    return triton_depthwise.add_depthwise(x, weight, bias, added)


def attention_with_lce(qkv: Tensor, weight: Tensor, bias: Tensor,
                       region_index: Tensor, num_regions: int, num_heads: int,
                       scale: float, height: int, width: int,
                       masked: bool) -> Tensor:
    """Routed attention and local context enhancement of its values."""
    from . import triton_lce
    return triton_lce.attention_with_lce(qkv, weight, bias, region_index,
                                         num_regions, num_heads, scale, height,
                                         width, masked)[0]


def routing(query: Tensor, key: Tensor, topk: int,
            valid_size: Optional[Tuple[int, int]]) -> Tensor:
    """The best k regions of each: (N, S*S, k). Of equal ones the lower number
    comes first."""
    from . import triton_routing
    return triton_routing.routing(query, key, topk, *(valid_size or (0, 0)))
