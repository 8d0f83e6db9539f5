"""Gather-free fused region attention on GPUs: launches and registration.

Imported only where Triton is. The op saves q, k, v, the routing index, its
output and the log-sum-exp.
"""
import math
from typing import Optional, Tuple

import torch
import triton
from torch import Tensor

from . import triton_kernels as kernels
from .registration import register
from .triton_config import MAX_HEAD_DIM, block_of, choose, precision_of

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Why this backend cannot serve such inputs; None where it can."""
    if int(triton.__version__.split('.')[0]) < 3:
        return f'its kernels need Triton 3, not {triton.__version__}'
    interpreted = not isinstance(kernels.forward, triton.runtime.JITFunction)
    if not interpreted:
        reason = _unsuitable(query.device)
        if reason:
            return reason
    if query.dtype not in DTYPES:
        return f'its kernels take fp32, fp16 and bf16, not {query.dtype}'
    head_dim = query.shape[-1] // num_heads
    if head_dim > MAX_HEAD_DIM:
        return (f'its kernels take heads of up to {MAX_HEAD_DIM} channels, '
                f'not {head_dim}')
    # Within an image the kernels count elements in 32 bits.
    extent = sum((size - 1) * stride
                 for size, stride in zip(query.shape[1:],
                                         query.stride()[1:]))
    if max(extent, query[0].numel()) >= 2**31:
        return ('its kernels take maps of less than 2**31 elements per image, '
                f'not {extent}')
    return None


def _unsuitable(device: torch.device) -> Optional[str]:
    if device.type != 'cuda':
        return f'its kernels run on GPUs, not on {device.type}'
    if torch.version.hip:
        return 'its kernels were not checked on ROCm'
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return ('its kernels were not checked on GPUs of compute capability '
                'below 8.0; this one has {}.{}'.format(*capability))
    return None


def region_attention(query: Tensor, key: Tensor, value: Tensor,
                     region_index: Tensor, *, num_heads: int, scale: float,
                     valid_size: Optional[Tuple[int, int]],
                     attend_padding: bool) -> Tensor:
    """See :func:`biformer_mm.ops.region_attention`.

    The output is laid out in memory like ``query``.
    """
    if query.stride(-1) != 1 or not (query.stride() == key.stride() ==
                                     value.stride()):
        query, key, value = (x.contiguous() for x in (query, key, value))
    valid_h, valid_w = valid_size or (0, 0)
    return _attend(query, key, value, region_index.contiguous(), num_heads,
                   scale, valid_h, valid_w, attend_padding)[0]


def _forward(query: Tensor, key: Tensor, value: Tensor, region_index: Tensor,
             num_heads: int, scale: float, valid_h: int, valid_w: int,
             attend_padding: bool) -> Tuple[Tensor, Tensor]:
    """The output, and the base-2 log-sum-exp, (N, m, R, T) in fp32."""
    out, lse = _outputs(query, key, value, region_index, num_heads)
    launch = _Launcher(query, out, region_index, num_heads, scale, valid_h,
                       valid_w, attend_padding)
    launch('forward', query, key, value, region_index, out, lse)
    return out, lse


def _backward(dout: Tensor, query: Tensor, key: Tensor, value: Tensor,
              region_index: Tensor, out: Tensor, lse: Tensor, num_heads: int,
              scale: float, valid_h: int, valid_w: int,
              attend_padding: bool) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    if dout.stride() != out.stride():
        dout = torch.empty_like(out).copy_(dout)
    dquery, dkey, dvalue = _gradients(dout, query, key, value, region_index,
                                      out)
    statistics = lse.new_empty((*lse.shape, 2))
    launch = _Launcher(query, out, region_index, num_heads, scale, valid_h,
                       valid_w, attend_padding)
    launch('backward_query', query, key, value, region_index, out, dout, lse,
           statistics, dquery)
    launch('backward_key', query, key, value, *_readers(region_index), dout,
           statistics, dkey, dvalue)
    return dquery, dkey, dvalue


def _outputs(query: Tensor, key: Tensor, value: Tensor, region_index: Tensor,
             num_heads: int, *args) -> Tuple[Tensor, Tensor]:
    n, sh, sw, h, w, _ = query.shape
    lse = query.new_empty((n, num_heads, sh * sw, h * w), dtype=torch.float32)
    return torch.empty_like(query), lse


class _Launcher:
    """Runs kernels by name, on tensors, with all that they take besides."""

    def __init__(self, query: Tensor, out: Tensor, region_index: Tensor,
                 num_heads: int, scale: float, valid_h: int, valid_w: int,
                 attend_padding: bool) -> None:
        n, sh, sw, h, w, channels = query.shape
        self.regions, self.tokens = sh * sw, h * w
        self.images_and_heads = n * num_heads
        self.topk = region_index.shape[2]
        self.sizes = (scale * math.log2(math.e), num_heads, self.regions,
                      self.topk, self.tokens, sw, h, w,
                      *(kernels.reciprocal(x) for x in (self.tokens, sw, w)),
                      valid_h, valid_w, *query.stride()[:5], *out.stride()[:5])
        self.precision = precision_of(query.dtype)
        self.compiled_in = dict(
            HEAD_DIM=channels // num_heads,
            BLOCK_D=block_of(channels // num_heads),
            CROP=valid_h > 0,
            CROP_KEYS=valid_h > 0 and not attend_padding,
            PRECISION='tf32' if self.precision == 'tf32' else 'ieee')

    def __call__(self, kernel: str, *tensors: Tensor) -> None:
        config = choose(kernel, self.precision, self.compiled_in['BLOCK_D'],
                        self.tokens, self.topk)
        # How many regions read one is known on the GPU alone.
        lists = 1 if kernel == 'backward_key' else self.topk
        grid = (self.regions * triton.cdiv(self.tokens, config.own),
                self.images_and_heads)
        getattr(kernels, kernel)[grid](
            *tensors,
            *self.sizes,
            EVEN=lists * self.tokens % config.listed == 0,
            **self.compiled_in,
            **config.options(kernel))


def _readers(region_index: Tensor) -> Tuple[Tensor, Tensor]:
    """The inverse of the routing index.

    Returns:
        (N, R+1) and (N, R*k), int32: entries start[n, j] to start[n, j+1] of
        reader[n] are the regions whose queries attend to region j, ascending.
    """
    regions, topk = region_index.shape[1:]
    routed, order = region_index.flatten(1).sort(dim=1, stable=True)
    bounds = torch.arange(
        regions + 1, device=routed.device, dtype=routed.dtype)
    start = torch.searchsorted(routed,
                               bounds.expand(len(routed), -1).contiguous())
    return start.int(), (order // topk).int()


def _gradients(dout: Tensor, query: Tensor, key: Tensor, value: Tensor,
               region_index: Tensor, out: Tensor, *args) -> Tuple:
    return tuple(torch.empty_like(out) for _ in range(3))


_attend = register('region_attention', _forward, _backward, _outputs,
                   _gradients)
