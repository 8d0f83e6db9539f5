"""Fused region attention on GPUs without a gather: launches and registration.

This module needs Triton. The op saves query, key, value, the routing index, its output and the
log-sum-exp for the backward pass.
"""

import math
from functools import partial
from typing import Optional, Sequence, Tuple

import torch
import triton
from torch import Tensor

from .. import self_check
from ..registration import register
from ..tracing import constant, holds_values
from . import triton_kernels as kernels
from . import triton_map
from .triton_config import (
    MAX_HEAD_DIM,
    block_of,
    capability_of,
    choose,
    choose_on_map,
    precision_of,
    sees_map,
)
from .triton_routing import inverse

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Return why this backend cannot serve the inputs, or None if it can."""
    reason = unsuitable(query.device)
    if reason:
        return reason
    if query.dtype not in DTYPES:
        return f'its kernels take fp32, fp16 and bf16, not {query.dtype}'
    head_dim = query.shape[-1] // num_heads
    if head_dim > MAX_HEAD_DIM:
        return f'its kernels take heads of up to {MAX_HEAD_DIM} channels, not {head_dim}'
    return too_large(query) or _fault_of(query, num_heads)


def too_large(x: Tensor) -> Optional[str]:
    """Return why a map is too large for the kernels, or None if it is not.

    The kernels count the elements of an image in 32 bits.
    """
    extent = sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:]))
    if max(extent, math.prod(x.shape[1:])) >= 2**31:
        return f'its kernels take maps of less than 2**31 elements per image, not {extent}'
    return None


def interpreted() -> bool:
    """Return whether Triton runs the kernels on the CPU; see TRITON_INTERPRET."""
    return not isinstance(kernels.forward, triton.runtime.JITFunction)


def unsuitable(device: torch.device) -> Optional[str]:
    """Return why kernels cannot run on a device, or None if they can."""
    if int(triton.__version__.split('.')[0]) < 3:
        return f'its kernels need Triton 3, not {triton.__version__}'
    if interpreted():
        return None
    if device.type != 'cuda':
        return f'its kernels run on GPUs, not on {device.type}'
    if torch.version.hip:
        return 'its kernels were not checked on ROCm'
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return (
            'its kernels were not checked on GPUs of compute capability '
            'below 8.0; this one has {}.{}'.format(*capability)
        )
    return None


def _fault_of(query: Tensor, num_heads: int) -> Optional[str]:
    """Return why the kernels must not be used on this GPU, or None; see self_check."""
    if interpreted():
        return None
    may_run = holds_values(query) and not (torch.cuda.is_current_stream_capturing())
    return _fault(query.device, query.dtype, query.shape[-1] // num_heads, may_run)


@constant
def _fault(device: torch.device, dtype: torch.dtype, head_dim: int, may_run: bool) -> Optional[str]:
    about = f'{dtype}, {precision_of(dtype)}, {block_of(head_dim)}'
    return self_check.fault(
        device, about, partial(self_check.first_error, device, dtype, head_dim, _run), may_run
    )


def _run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    dout: Tensor,
    *,
    num_heads: int,
    scale: float,
    valid_size: Optional[Tuple[int, int]],
    attend_padding: bool,
) -> Tuple[Tensor, ...]:
    """Compute output and gradients without autograd, for the self-check."""
    settings = num_heads, scale, *(valid_size or (0, 0)), attend_padding
    out, lse = _forward(query, key, value, region_index, *settings)
    return (out, *_backward(dout, query, key, value, region_index, out, lse, *settings))


def region_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    *,
    num_heads: int,
    scale: float,
    valid_size: Optional[Tuple[int, int]],
    attend_padding: bool,
) -> Tensor:
    """See :func:`biformer_mm.ops.region_attention`.

    In memory the output is laid out like ``query``.
    """
    # A copy made here also serves the backward pass.
    query, key, value = _laid_alike(query, key, value)
    valid_h, valid_w = valid_size or (0, 0)
    return _attend(
        query,
        key,
        value,
        region_index.contiguous(),
        num_heads,
        scale,
        valid_h,
        valid_w,
        attend_padding,
    )[0]


def _laid_alike(query: Tensor, key: Tensor, value: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the tensors in a common memory layout with contiguous channels."""
    if query.stride(-1) != 1 or not (query.stride() == key.stride() == value.stride()):
        return query.contiguous(), key.contiguous(), value.contiguous()
    return query, key, value


def checked_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    num_heads: int,
    scale: float,
    valid_h: int,
    valid_w: int,
    attend_padding: bool,
) -> Tuple[Tensor, Tensor]:
    """Run :func:`_forward` if the self-check passed; a compiled model has not asked yet.

    Raises:
        RuntimeError: The self-check found the kernels wrong on this GPU.
    """
    reason = _fault_of(query, num_heads)
    if reason:
        raise RuntimeError(
            f"backend 'triton' must not run, as {reason}; set "
            'BIFORMER_MM_BACKEND=sdpa, or compile again'
        )
    return _forward(
        query, key, value, region_index, num_heads, scale, valid_h, valid_w, attend_padding
    )


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    num_heads: int,
    scale: float,
    valid_h: int,
    valid_w: int,
    attend_padding: bool,
) -> Tuple[Tensor, Tensor]:
    """Return the output, and the base-2 log-sum-exp, (N, m, R, T) in fp32."""
    out, lse = _outputs(query, key, value, region_index, num_heads)
    # Compilers call this directly and may choose other strides.
    query, key, value = _laid_alike(query, key, value)
    launch = _Launcher(
        query, out, out, region_index, num_heads, scale, valid_h, valid_w, attend_padding
    )
    with torch.cuda.device_of(query):  # Triton launches on the current device
        launch('forward', query, key, value, region_index.contiguous(), out, lse)
    return out, lse


def _backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    out: Tensor,
    lse: Tensor,
    num_heads: int,
    scale: float,
    valid_h: int,
    valid_w: int,
    attend_padding: bool,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    grads = _gradients(dout, query, key, value, region_index, out)
    query, key, value = _laid_alike(query, key, value)
    fill_gradients(
        grads,
        dout,
        query,
        key,
        value,
        region_index,
        out,
        lse,
        num_heads,
        scale,
        valid_h,
        valid_w,
        attend_padding,
    )
    return grads


def fill_gradients(
    grads: Sequence[Tensor],
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    out: Tensor,
    lse: Tensor,
    *settings,
) -> None:
    """Write the gradients of query, key and value into ``grads``.

    Query, key and value share one memory layout, and the gradients have that or the layout of
    ``out``. Channels are contiguous.
    """
    if dout.stride() != out.stride():
        dout = torch.empty_like(out).copy_(dout)
    region_index = region_index.contiguous()
    statistics = lse.new_empty((*lse.shape, 2))
    dquery, dkey, dvalue = grads
    launch = _Launcher(query, out, dquery, region_index, *settings)
    with torch.cuda.device_of(query):
        launch(
            'backward_query', query, key, value, region_index, out, dout, lse, statistics, dquery
        )
        readers = () if launch.on_map else inverse(region_index)
        launch('backward_key', query, key, value, *readers, dout, statistics, dkey, dvalue)


def _outputs(
    query: Tensor, key: Tensor, value: Tensor, region_index: Tensor, num_heads: int, *args
) -> Tuple[Tensor, Tensor]:
    n, sh, sw, h, w, _ = query.shape
    lse = query.new_empty((n, num_heads, sh * sw, h * w), dtype=torch.float32)
    # Laid out like the query, but with contiguous channels.
    layout = torch.preserve_format if query.stride(-1) == 1 else torch.contiguous_format
    return torch.empty_like(query, memory_format=layout), lse


class _Launcher:
    """Launch kernels by name, with their tensors; it adds all other arguments."""

    def __init__(
        self,
        query: Tensor,
        out: Tensor,
        gradient: Tensor,
        region_index: Tensor,
        num_heads: int,
        scale: float,
        valid_h: int,
        valid_w: int,
        attend_padding: bool,
    ) -> None:
        n, sh, sw, h, w, channels = query.shape
        self.regions, self.tokens = sh * sw, h * w
        self.images_and_heads = n * num_heads
        self.topk = region_index.shape[2]
        self.sizes = (
            scale * math.log2(math.e),
            num_heads,
            self.regions,
            self.topk,
            self.tokens,
            sw,
            h,
            w,
            *(kernels.reciprocal(x) for x in (self.tokens, sw, w)),
            valid_h,
            valid_w,
            *query.stride()[:5],
            *out.stride()[:5],
        )
        self.like_input = gradient.stride() != out.stride()
        self.region_index = region_index
        self.precision = precision_of(query.dtype)
        self.capability = capability_of(query.device)
        self.block_d = block_of(channels // num_heads)
        self.on_map = sees_map(self.block_d, self.tokens, self.regions, self.topk)
        self.compiled_in = dict(
            HEAD_DIM=channels // num_heads,
            BLOCK_D=self.block_d,
            CROP=valid_h > 0,
            CROP_KEYS=valid_h > 0 and not attend_padding,
            PRECISION='tf32' if self.precision == 'tf32' else 'ieee',
        )

    def __call__(self, kernel: str, *tensors: Tensor) -> None:
        if kernel != 'forward':
            self.compiled_in['LIKE_INPUT'] = self.like_input
        if self.on_map:
            self._launch_on_map(kernel, *tensors)
            return
        config = choose(
            kernel, self.precision, self.block_d, self.tokens, self.topk, self.capability
        )
        # Only the GPU knows how many regions attend to one.
        lists = 1 if kernel == 'backward_key' else self.topk
        grid = (self.images_and_heads * self.regions * triton.cdiv(self.tokens, config.own),)
        getattr(kernels, kernel)[grid](
            *tensors,
            *self.sizes,
            EVEN=lists * self.tokens % config.listed == 0,
            **self.compiled_in,
            **config.options(kernel),
        )

    def _launch_on_map(
        self, kernel: str, query: Tensor, key: Tensor, value: Tensor, *tensors: Tensor
    ) -> None:
        of_keys = kernel == 'backward_key'
        bias = self._bias(of_keys)
        if not of_keys:  # the bias replaces the routing index
            tensors = tensors[1:]
        config = choose_on_map(kernel, self.precision, self.capability)
        grid = (self.images_and_heads * triton.cdiv(self.regions * self.tokens, config.own),)
        getattr(triton_map, f'map_{kernel}')[grid](
            query,
            key,
            value,
            bias,
            *tensors,
            *self.sizes,
            **self.compiled_in,
            **config.options(kernel),
        )

    def _bias(self, of_keys: bool) -> Tensor:
        """Compute what queries add to their scores; see :mod:`.triton_map`."""
        index = self.region_index.contiguous()
        tile = triton_map.TILE.value
        places = triton.cdiv(self.regions * self.tokens, tile) * tile
        bias = index.new_empty((*index.shape[:2], places), dtype=torch.float32)
        grid = (index.shape[:2].numel(),)
        triton_map.map_bias[grid](
            index,
            bias,
            *self.sizes,
            BLOCK_K=triton.next_power_of_2(self.topk),
            OF_KEYS=of_keys,
            CROP_KEYS=self.compiled_in['CROP_KEYS'],
        )
        return bias


def _gradients(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    out: Tensor,
    *args,
) -> Tuple:
    return tuple(torch.empty_like(out) for _ in range(3))


_attend = register('region_attention', checked_forward, _backward, _outputs, _gradients)
