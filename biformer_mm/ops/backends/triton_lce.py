"""Routed attention with local context enhancement (LCE) as a single op, on GPUs.

It is one op for the sake of the backward pass, which writes the gradients of query, key and value
into one tensor, the gradient of the projection, and lets LCE add its part in place. Two ops would
need a concatenation and an addition.

Shapes and arguments are those of :mod:`.block_reference`.
"""

from typing import Tuple

import torch
from torch import Tensor

from .. import flops
from ..region import merge, partition
from ..registration import register
from . import triton, triton_block, triton_depthwise
from .block_reference import lce_values


def _forward(
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
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the result, the attention's output and its log-sum-exp."""
    triton_block.refuse_faulty(qkv)
    qkv = qkv.contiguous()
    query, key, value = _thirds(qkv, num_regions)
    out, lse = triton.checked_forward(
        query, key, value, region_index, *_settings(qkv, num_heads, scale, height, width, masked)
    )
    result = qkv.new_empty((qkv.shape[0], height, width, qkv.shape[-1] // 3))
    triton_depthwise.run(
        lce_values(_values(qkv), weight, height, width, masked), weight, result, bias, merge(out)
    )
    return result, out, lse


def _backward(
    dout: Tensor,
    qkv: Tensor,
    weight: Tensor,
    bias: Tensor,
    region_index: Tensor,
    out: Tensor,
    lse: Tensor,
    num_regions: int,
    num_heads: int,
    scale: float,
    height: int,
    width: int,
    masked: bool,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of qkv, weight and bias."""
    qkv, dout = qkv.contiguous(), dout.contiguous()
    of_attention = dout
    if qkv.shape[1:3] != dout.shape[1:3]:
        # The values of the padding are not read.
        of_attention = dout.new_empty((*qkv.shape[:3], dout.shape[-1]))
        of_attention[:, :height, :width] = dout
    dqkv = torch.empty_like(qkv)
    triton.fill_gradients(
        _thirds(dqkv, num_regions),
        partition(of_attention, num_regions),
        *_thirds(qkv, num_regions),
        region_index,
        out,
        lse,
        *_settings(qkv, num_heads, scale, height, width, masked),
    )
    value, dvalue = (lce_values(_values(x), weight, height, width, masked) for x in (qkv, dqkv))
    triton_depthwise.run(dout, weight, dvalue, added=dvalue, flip=True)
    return dqkv, *triton_depthwise.weight_gradients(dout, value, weight)


def _thirds(qkv: Tensor, num_regions: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Cut into query, key and value, (N, S, S, h, w, C) each."""
    query, key, value = (partition(x, num_regions) for x in qkv.chunk(3, dim=-1))
    return query, key, value


def _values(qkv: Tensor) -> Tensor:
    return qkv[..., qkv.shape[-1] // 3 * 2 :]


def _settings(
    qkv: Tensor, num_heads: int, scale: float, height: int, width: int, masked: bool
) -> Tuple[int, float, int, int, bool]:
    """Return the arguments of attention that follow its tensors."""
    padded = qkv.shape[1:3] != (height, width)
    valid_h, valid_w = (height, width) if padded else (0, 0)
    return num_heads, scale, valid_h, valid_w, not masked


def _outputs(
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
) -> Tuple[Tensor, Tensor, Tensor]:
    n, rows, columns, channels = qkv.shape
    out = qkv.new_empty((n, rows, columns, channels // 3))
    regions = num_regions**2
    lse = qkv.new_empty((n, num_heads, regions, rows * columns // regions), dtype=torch.float32)
    return (qkv.new_empty((n, height, width, channels // 3)), partition(out, num_regions), lse)


def _gradients(
    dout: Tensor, qkv: Tensor, weight: Tensor, bias: Tensor, *args
) -> Tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(qkv, memory_format=torch.contiguous_format),
        torch.empty_like(weight),
        torch.empty_like(bias),
    )


def _multiplications(qkv: flops.Shape, region_index: flops.Shape, num_regions: int) -> int:
    n, rows, columns, channels = qkv
    s = num_regions
    return flops.multiplications((n, s, s, rows // s, columns // s, channels // 3), region_index)


def _lce_flops(qkv: flops.Shape, weight: flops.Shape, height: int, width: int, masked: bool) -> int:
    """Count LCE with the margin that other backends convolve and crop."""
    n, rows, columns, channels = qkv
    margin = 0 if masked else weight[-1] // 2
    seen = min(rows, height + margin), min(columns, width + margin)
    return flops.depthwise((n, *seen, channels // 3), weight)


def _count(
    qkv, weight, bias, region_index, num_regions, num_heads, scale, height, width, masked, **_
) -> int:
    lce = _lce_flops(qkv, weight, height, width, masked)
    return 2 * 2 * _multiplications(qkv, region_index, num_regions) + lce


def _count_backward(
    dout,
    qkv,
    weight,
    bias,
    region_index,
    out,
    lse,
    num_regions,
    num_heads,
    scale,
    height,
    width,
    masked,
    **_,
) -> int:
    lce = 2 * _lce_flops(qkv, weight, height, width, masked)
    return 5 * 2 * _multiplications(qkv, region_index, num_regions) + lce


attention_with_lce = register(
    'attention_with_lce',
    _forward,
    _backward,
    _outputs,
    _gradients,
    gradient_of=(0, 1, 2, None),
    keep=lambda inputs, outputs: (*inputs, *outputs[1:]),
    count=(_count, _count_backward),
)
