"""Depth-wise convolution of NHWC maps as Triton kernels.

PyTorch's convolution needs a dense map, adds the bias in another kernel, and under autocast casts
the weights first. Here a map may be a slice (such as the values of a fused projection), weights
stay in their dtype, and bias and another map are added before the result is written. Sums are in
fp32.

Shapes: N batch, C channels, K x K kernel, K odd. The maps may differ in height and width: a map is
zero-padded, and only the positions of the result are computed. Strides come as three numbers, of
N, H and W; the stride of C is 1.
"""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import flops
from ..registration import register

# Largest number of partial sums of the weights' gradients; the same on all GPUs.
MAX_PARTS = 256


@triton.jit
def convolve(
    X,
    WEIGHT,
    BIAS,
    ADDED,
    OUT,
    C,
    height,
    width,
    out_height,
    out_width,
    x_n,
    x_y,
    x_x,
    a_n,
    a_y,
    a_x,
    o_n,
    o_y,
    o_x,
    SIZE: tl.constexpr,
    FLIP: tl.constexpr,
    ADD_BIAS: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Convolve part of a row of one image, for some of the channels.

    FLIP rotates the kernel by 180 degrees, for the gradient of the map.
    """
    tiles = tl.cdiv(out_width, BLOCK_W)
    tile = tl.program_id(0) % tiles
    y = tl.program_id(0) // tiles % out_height
    rest = tl.program_id(0) // (tiles * out_height)
    blocks = tl.cdiv(C, BLOCK_C)
    image = (rest // blocks).to(tl.int64)
    channel = rest % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    x = tile * BLOCK_W + tl.arange(0, BLOCK_W)
    there = channel < C

    out = tl.zeros([BLOCK_W, BLOCK_C], tl.float32)
    for tap in tl.static_range(SIZE * SIZE):
        row = y + tap // SIZE - SIZE // 2
        column = x + (tap % SIZE - SIZE // 2)
        on_map = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        value = tl.load(
            X + image * x_n + row * x_y + column[:, None] * x_x + channel[None, :],
            mask=on_map[:, None] & there[None, :],
            other=0.0,
        )
        place = SIZE * SIZE - 1 - tap if FLIP else tap
        weight = tl.load(WEIGHT + channel * (SIZE * SIZE) + place, mask=there, other=0.0)
        out += value.to(tl.float32) * weight.to(tl.float32)[None, :]
    if ADD_BIAS:
        bias = tl.load(BIAS + channel, mask=there, other=0.0)
        out += bias.to(tl.float32)[None, :]
    mask = (x < out_width)[:, None] & there[None, :]
    if ADD:
        out += tl.load(
            ADDED + image * a_n + y * a_y + x[:, None] * a_x + channel[None, :],
            mask=mask,
            other=0.0,
        ).to(tl.float32)
    tl.store(
        OUT + image * o_n + y * o_y + x[:, None] * o_x + channel[None, :],
        out.to(OUT.dtype.element_ty),
        mask=mask,
    )


@triton.jit
def convolve_weight(
    X,
    DOUT,
    PARTIAL,
    N,
    C,
    height,
    width,
    out_height,
    out_width,
    x_n,
    x_y,
    x_x,
    o_n,
    o_y,
    o_x,
    SIZE: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Compute the gradients of weight and bias from some rows of all images.

    PARTIAL is (parts, C, TAPS): the K*K elements of the kernel, then the bias.
    """
    blocks = tl.cdiv(C, BLOCK_C)
    part = tl.program_id(0) // blocks
    parts = tl.num_programs(0) // blocks
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < C
    tap = tl.arange(0, TAPS)
    # The bias is one more tap, on a map of ones.
    of_bias = (tap == SIZE * SIZE)[:, None, None]

    total = tl.zeros([TAPS, BLOCK_W, BLOCK_C], tl.float32)
    for at in range(part, N * out_height, parts):
        image = (at // out_height).to(tl.int64)
        y = at % out_height
        row = y + tap // SIZE - SIZE // 2
        in_rows = (tap < SIZE * SIZE) & (row >= 0) & (row < height)
        for start in range(0, out_width, BLOCK_W):
            x = start + tl.arange(0, BLOCK_W)
            dout = tl.load(
                DOUT + image * o_n + y * o_y + x[:, None] * o_x + channel[None, :],
                mask=(x < out_width)[:, None] & there[None, :],
                other=0.0,
            ).to(tl.float32)
            column = x[None, :] + (tap % SIZE - SIZE // 2)[:, None]
            on_map = in_rows[:, None] & (column >= 0) & (column < width)
            value = tl.load(
                X
                + image * x_n
                + (row * x_y)[:, None, None]
                + (column * x_x)[:, :, None]
                + channel[None, None, :],
                mask=on_map[:, :, None] & there[None, None, :],
                other=0.0,
            ).to(tl.float32)
            total += tl.where(of_bias, 1.0, value) * dout[None, :, :]
    total = tl.sum(total, 1)
    tl.store(
        PARTIAL + (part * C + channel)[None, :] * TAPS + tap[:, None], total, mask=there[None, :]
    )


def run(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    bias: Optional[Tensor] = None,
    added: Optional[Tensor] = None,
    flip: bool = False,
) -> None:
    """Convolve into ``out``, (N, H, W, C); ``added`` may be ``out`` itself."""
    n, height, width, channels = out.shape
    # Larger tiles read the weights less often.
    tile = dict(BLOCK_W=16 if width > 8 else 8, BLOCK_C=32)
    grid = (
        n * triton.cdiv(channels, tile['BLOCK_C']) * height * triton.cdiv(width, tile['BLOCK_W']),
    )
    add = out if added is None else added
    with torch.cuda.device_of(out):
        convolve[grid](
            x,
            weight.contiguous(),
            weight if bias is None else bias.contiguous(),
            add,
            out,
            channels,
            *x.shape[1:3],
            height,
            width,
            *x.stride()[:3],
            *add.stride()[:3],
            *out.stride()[:3],
            SIZE=weight.shape[-1],
            FLIP=flip,
            ADD_BIAS=bias is not None,
            ADD=added is not None,
            num_warps=1,
            **tile,
        )


def weight_gradients(dout: Tensor, x: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
    """Compute the gradients of weight and bias, in the dtype of the weight."""
    n, height, width, channels = dout.shape
    size = weight.shape[-1]
    taps = triton.next_power_of_2(size**2 + 1)
    parts = min(n * height, MAX_PARTS)
    partial = x.new_empty((parts, channels, taps), dtype=torch.float32)
    tile = dict(BLOCK_W=2, BLOCK_C=32)
    grid = (parts * triton.cdiv(channels, tile['BLOCK_C']),)
    with torch.cuda.device_of(x):
        convolve_weight[grid](
            x,
            dout,
            partial,
            n,
            channels,
            *x.shape[1:3],
            height,
            width,
            *x.stride()[:3],
            *dout.stride()[:3],
            SIZE=size,
            TAPS=taps,
            num_warps=2,
            **tile,
        )
    total = partial.sum(0)
    dweight = total[:, : size**2].to(weight.dtype, copy=True)
    dbias = total[:, size**2].to(weight.dtype, copy=True)
    return dweight.view_as(weight), dbias


def readable(x: Tensor) -> Tensor:
    """Return the map with contiguous channels."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _forward(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
    out = _outputs(x, weight, bias, added)
    run(readable(x), weight, out, bias, readable(added))
    return out


def _backward(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    dout = readable(dout)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    run(dout, weight, dx, flip=True)
    return dx, *weight_gradients(dout, readable(x), weight)


def _outputs(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
    return torch.empty_like(added, memory_format=torch.contiguous_format)


def _gradients(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight),
        torch.empty_like(bias),
    )


# Takes an NHWC map, weight, bias, and an NHWC map that is added. The gradient of the latter is that
# of the result: index 3, after the three outputs of _backward.
add_depthwise = register(
    'add_depthwise',
    _forward,
    _backward,
    _outputs,
    _gradients,
    gradient_of=(0, 1, 2, 3),
    keep=lambda inputs, outputs: inputs[:3],
    count=(
        lambda x, weight, bias, added, **_: flops.depthwise(added, weight),
        lambda dout, x, weight, bias, **_: 2 * flops.depthwise(dout, weight),
    ),
)
