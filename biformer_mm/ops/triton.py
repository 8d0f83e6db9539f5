"""Gather-free fused region attention on GPUs: launches and registration.

Imported only where Triton is. The op saves q, k, v, the routing index, its
output and the log-sum-exp, and is one node to torch.compile where PyTorch can
register it (from 2.4 on).
"""
import math
from typing import Dict, Optional, Tuple

import torch
import triton
from torch import Tensor

from . import triton_kernels as kernels

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 128


def unsupported_reason(query: Tensor, num_heads: int) -> Optional[str]:
    """Why this backend cannot serve such inputs; None where it can."""
    if int(triton.__version__.split('.')[0]) < 3:
        return f'its kernels need Triton 3, not {triton.__version__}'
    interpreted = not isinstance(kernels.forward, triton.runtime.JITFunction)
    if query.device.type != 'cuda' and not interpreted:
        return f'its kernels run on GPUs, not on {query.device.type}'
    if query.dtype not in DTYPES:
        return f'its kernels take fp32, fp16 and bf16, not {query.dtype}'
    head_dim = query.shape[-1] // num_heads
    if head_dim > MAX_HEAD_DIM:
        return (f'its kernels take heads of up to {MAX_HEAD_DIM} channels, '
                f'not {head_dim}')
    return None


def region_attention(query: Tensor, key: Tensor, value: Tensor,
                     region_index: Tensor, *, num_heads: int, scale: float,
                     valid_size: Optional[Tuple[int, int]]) -> Tensor:
    """See :func:`biformer_mm.ops.region_attention`.

    The output is laid out in memory like ``query``.
    """
    if query.stride(-1) != 1 or not (query.stride() == key.stride() ==
                                     value.stride()):
        query, key, value = (x.contiguous() for x in (query, key, value))
    valid_h, valid_w = valid_size or (0, 0)
    return _attend(query, key, value, region_index.contiguous(), num_heads,
                   scale, valid_h, valid_w)[0]


def _forward(query: Tensor, key: Tensor, value: Tensor, region_index: Tensor,
             num_heads: int, scale: float, valid_h: int,
             valid_w: int) -> Tuple[Tensor, Tensor]:
    """The output, and the base-2 log-sum-exp, (N, m, R, T) in fp32."""
    out, lse = _forward_outputs(query, num_heads)
    common, blocks = _arguments(query, out, region_index, num_heads, scale,
                                valid_h, valid_w)
    kernels.forward[_grid(lse,
                          blocks['BLOCK_M'])](query, key, value, region_index,
                                              out, lse, *common, **blocks)
    return out, lse


def _backward(dout: Tensor, query: Tensor, key: Tensor, value: Tensor,
              region_index: Tensor, out: Tensor, lse: Tensor, num_heads: int,
              scale: float, valid_h: int,
              valid_w: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    if dout.stride() != out.stride():
        dout = torch.empty_like(out).copy_(dout)
    dquery, dkey, dvalue = (torch.empty_like(out) for _ in range(3))
    delta = torch.empty_like(lse)
    common, blocks = _arguments(query, out, region_index, num_heads, scale,
                                valid_h, valid_w)
    kernels.backward_query[_grid(lse,
                                 blocks['BLOCK_M'])](query, key, value,
                                                     region_index, out, dout,
                                                     lse, delta, dquery,
                                                     *common, **blocks)
    start, reader = _readers(region_index)
    kernels.backward_key[_grid(lse,
                               blocks['BLOCK_N'])](query, key, value, start,
                                                   reader, dout, lse, delta,
                                                   dkey, dvalue, *common,
                                                   **blocks)
    return dquery, dkey, dvalue


def _forward_outputs(query: Tensor, num_heads: int) -> Tuple[Tensor, Tensor]:
    n, sh, sw, h, w, _ = query.shape
    lse = query.new_empty((n, num_heads, sh * sw, h * w), dtype=torch.float32)
    return torch.empty_like(query), lse


def _grid(lse: Tensor, block: int) -> Tuple[int, int]:
    n, heads, regions, tokens = lse.shape
    return regions * triton.cdiv(tokens, block), n * heads


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


def _arguments(query: Tensor, out: Tensor, region_index: Tensor,
               num_heads: int, scale: float, valid_h: int,
               valid_w: int) -> Tuple[Tuple, Dict]:
    """What every kernel takes after its tensors."""
    _, sh, sw, h, w, channels = query.shape
    head_dim = channels // num_heads
    tf32 = torch.backends.cuda.matmul.allow_tf32
    block_d = max(16, triton.next_power_of_2(head_dim))
    # The largest tiles whose sums fit a GPU's registers.
    largest = 64 if block_d <= 32 and query.element_size() == 2 else 32
    tile = min(largest, max(16, triton.next_power_of_2(h * w)))
    return (scale * math.log2(math.e), num_heads, sh * sw,
            region_index.shape[2], sw, h, w, valid_h, valid_w,
            *query.stride()[:5], *out.stride()[:5]), dict(
                HEAD_DIM=head_dim,
                BLOCK_D=block_d,
                BLOCK_M=tile,
                BLOCK_N=tile,
                MASKED=valid_h > 0,
                PRECISION='tf32' if tf32 else 'ieee')


def _save(ctx, inputs, output) -> None:
    *tensors, num_heads, scale, valid_h, valid_w = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.settings = num_heads, scale, valid_h, valid_w


def _gradients(ctx, dout, _) -> Tuple:
    return (*_attend_backward(dout, *ctx.saved_tensors, *ctx.settings), None,
            None, None, None, None)


if hasattr(torch.library, 'custom_op'):
    _attend = torch.library.custom_op(
        'biformer_mm::region_attention', _forward, mutates_args=())
    _attend_backward = torch.library.custom_op(
        'biformer_mm::region_attention_backward', _backward, mutates_args=())
    _attend.register_fake(
        lambda query, *args: _forward_outputs(query, args[3]))
    _attend_backward.register_fake(
        lambda *args: tuple(torch.empty_like(args[5]) for _ in range(3)))
    _attend.register_autograd(_gradients, setup_context=_save)
else:

    class _Function(torch.autograd.Function):

        @staticmethod
        def forward(ctx, *args):
            output = _forward(*args)
            _save(ctx, args, output)
            ctx.mark_non_differentiable(output[1])
            return output

        backward = staticmethod(_gradients)

    _attend, _attend_backward = _Function.apply, _backward
