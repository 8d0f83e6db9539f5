"""LayerNorm of a map, or of the sum of two maps, as Triton kernels.

PyTorch's autocast runs LayerNorm in fp32: it casts the map, normalises, and casts the result back
for the next layer. Here input and output stay in half precision, and only the statistics are in
fp32. The same kernel adds the residual branch, and in the backward pass the two gradients.

Shapes: M tokens of C channels, contiguous.
"""

from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..registration import register

# Largest number of programs in the backward pass. Each writes one row of partial sums of the
# weights' gradients. It is the same on all GPUs, so that the sums are, too.
MAX_PROGRAMS = 512


@triton.jit
def _load(X, row, M, C, channel):
    """Load whole tokens in fp32, and zeros beyond the last: (tokens, C)."""
    return tl.load(
        X + row.to(tl.int64)[:, None] * C + channel[None, :],
        mask=(row < M)[:, None] & (channel < C)[None, :],
        other=0.0,
    ).to(tl.float32)


@triton.jit
def _store(X, row, M, C, channel, x):
    tl.store(
        X + row.to(tl.int64)[:, None] * C + channel[None, :],
        x.to(X.dtype.element_ty),
        mask=(row < M)[:, None] & (channel < C)[None, :],
    )


@triton.jit
def norm_forward(
    X,
    ADDED,
    WEIGHT,
    BIAS,
    SUM,
    OUT,
    STATISTICS,
    eps,
    M,
    C,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Normalise a tile of tokens; STATISTICS holds mean and 1/deviation."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_C)
    x = _load(X, row, M, C, channel)
    if ADD:
        x += _load(ADDED, row, M, C, channel)
        # Round first, to normalise what the next layers see.
        x = x.to(SUM.dtype.element_ty).to(tl.float32)
        _store(SUM, row, M, C, channel, x)
    mean = tl.sum(x, 1) / C
    centred = tl.where((channel < C)[None, :], x - mean[:, None], 0.0)
    by_deviation = tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)
    weight = tl.load(WEIGHT + channel, mask=channel < C, other=0.0)
    bias = tl.load(BIAS + channel, mask=channel < C, other=0.0)
    out = (
        centred * by_deviation[:, None] * weight.to(tl.float32)[None, :]
        + bias.to(tl.float32)[None, :]
    )
    _store(OUT, row, M, C, channel, out)
    tl.store(
        STATISTICS + row[:, None] * 2 + tl.arange(0, 2)[None, :],
        tl.join(mean, by_deviation),
        mask=(row < M)[:, None],
    )


@triton.jit
def norm_backward(
    X,
    WEIGHT,
    STATISTICS,
    DOUT,
    DSUM,
    DX,
    PARTIAL,
    M,
    C,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute dX of some tiles, and their part of the gradients of weight and bias.

    A program handles the tiles whose number, modulo the number of programs, is its own. PARTIAL is
    (programs, 2, C).
    """
    channel = tl.arange(0, BLOCK_C)
    there = channel < C
    weight = tl.load(WEIGHT + channel, mask=there, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK_C], tl.float32)
    dbias = tl.zeros([BLOCK_C], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        dout = _load(DOUT, row, M, C, channel)
        pair = tl.load(
            STATISTICS + row[:, None] * 2 + tl.arange(0, 2)[None, :],
            mask=(row < M)[:, None],
            other=0.0,
        )
        mean, by_deviation = tl.split(pair)
        normed = (_load(X, row, M, C, channel) - mean[:, None]) * by_deviation[:, None]
        normed = tl.where(there[None, :], normed, 0.0)
        dweight += tl.sum(dout * normed, 0)
        dbias += tl.sum(dout, 0)
        dnormed = dout * weight[None, :]
        along = tl.sum(dnormed * normed, 1) / C
        dx = (dnormed - (tl.sum(dnormed, 1) / C)[:, None] - normed * along[:, None]) * by_deviation[
            :, None
        ]
        if ADD:
            dx += _load(DSUM, row, M, C, channel)
        _store(DX, row, M, C, channel, dx)
    PARTIAL += tl.program_id(0) * 2 * C + channel
    tl.store(PARTIAL, dweight, mask=there)
    tl.store(PARTIAL + C, dbias, mask=there)


def _tile(channels: int) -> dict:
    """Choose a tile of about 2,000 elements, 16 per thread."""
    block = triton.next_power_of_2(channels)
    return dict(BLOCK_C=block, BLOCK_M=max(1, 2048 // block), num_warps=4 if block <= 2048 else 8)


def _normalize(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, total: Tensor, eps: float, add: bool
) -> Tuple[Tensor, Tensor]:
    channels = x.shape[-1]
    tokens = x.numel() // channels
    out = torch.empty_like(x)
    statistics = x.new_empty((tokens, 2), dtype=torch.float32)
    tile = _tile(channels)
    grid = (triton.cdiv(tokens, tile['BLOCK_M']),)
    with torch.cuda.device_of(x):
        norm_forward[grid](
            x,
            added,
            weight.contiguous(),
            bias.contiguous(),
            total,
            out,
            statistics,
            eps,
            tokens,
            channels,
            ADD=add,
            **tile,
        )
    return out, statistics


def _gradients_of(
    dout: Tensor, dtotal: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, add: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[-1]
    tokens = x.numel() // channels
    dx, tile = torch.empty_like(x), _tile(channels)
    programs = min(triton.cdiv(tokens, tile['BLOCK_M']), MAX_PROGRAMS)
    partial = x.new_empty((programs, 2, channels), dtype=torch.float32)
    grid = (programs,)
    with torch.cuda.device_of(x):
        norm_backward[grid](
            x,
            weight.contiguous(),
            statistics,
            dout,
            dtotal,
            dx,
            partial,
            tokens,
            channels,
            ADD=add,
            **tile,
        )
    dweight, dbias = partial.sum(0).to(weight.dtype)
    return dx, dweight, dbias.clone()  # outputs of an op must not share memory


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tuple[Tensor, Tensor]:
    x = x.contiguous()
    return _normalize(x, x, weight, bias, x, eps, False)


def _backward(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, eps: float
) -> Tuple[Tensor, Tensor, Tensor]:
    dout = dout.contiguous()
    return _gradients_of(dout, dout, x.contiguous(), weight, statistics, False)


def _outputs(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tuple[Tensor, Tensor]:
    tokens = x.numel() // x.shape[-1]
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        x.new_empty((tokens, 2), dtype=torch.float32),
    )


def _gradients(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, eps: float
) -> Tuple:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight),
        torch.empty_like(bias),
    )


def _add_forward(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tuple[Tensor, Tensor, Tensor]:
    x, added = x.contiguous(), added.contiguous()
    total = torch.empty_like(x)
    return total, *_normalize(x, added, weight, bias, total, eps, True)


def _add_backward(
    dtotal: Tensor,
    dout: Tensor,
    weight: Tensor,
    bias: Tensor,
    total: Tensor,
    statistics: Tensor,
    eps: float,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the sum (both summands'), weight and bias."""
    return _gradients_of(dout.contiguous(), dtotal.contiguous(), total, weight, statistics, True)


def _add_outputs(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tuple[Tensor, Tensor, Tensor]:
    out, statistics = _outputs(x, weight, bias, eps)
    return torch.empty_like(out), out, statistics


def _add_gradients(
    dtotal: Tensor,
    dout: Tensor,
    weight: Tensor,
    bias: Tensor,
    total: Tensor,
    statistics: Tensor,
    eps: float,
) -> Tuple:
    return (torch.empty_like(total), torch.empty_like(weight), torch.empty_like(bias))


layer_norm = register(
    'layer_norm',
    _forward,
    _backward,
    _outputs,
    _gradients,
    gradient_of=(0, 1, 2),
    count=(),
    keep=lambda inputs, outputs: (*inputs, outputs[1]),
)
add_layer_norm = register(
    'add_layer_norm',
    _add_forward,
    _add_backward,
    _add_outputs,
    _add_gradients,
    gradient_of=(0, 0, 1, 2),
    count=(),
    results=2,
    keep=lambda inputs, outputs: (*inputs[2:], outputs[0], outputs[2]),
)
