"""Routing and the inverse of a routing index, as Triton kernels.

One kernel computes the means of all regions; the next multiplies them and keeps the best k of each
region. For maps of few tokens the latter computes the means, too. Means, products and comparisons
are in fp32, without TF32. Of equal affinities the region with the lower number comes first.

Shapes and arguments are those of :mod:`.triton_kernels`.
"""

from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import flops
from ..registration import register_constant
from . import triton_block
from .triton_kernels import _offset, _valid, reciprocal

# Up to this many tokens per image, each program reads all of them.
FEW_TOKENS = 1024
BLOCK_ROWS = 16  # rows of a tensor core's product
# Not specialised on 1 and multiples of 16, as in triton_kernels.
SIZES = ('R', 'T', 'SW', 'h', 'w', 'valid_h', 'valid_w', 'by_SW', 'by_w')


@triton.jit
def _mean(
    X,
    region,
    R,
    channel,
    C,
    T,
    SW,
    h,
    w,
    by_SW,
    by_w,
    valid_h,
    valid_w,
    s_row,
    s_col,
    s_y,
    s_x,
    CROP: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Average the tokens of regions that are on the map: (regions, channels) in fp32."""
    there = (region < R)[:, None] & (channel < C)[None, :]
    total = tl.zeros(there.shape, tl.float32)
    count = tl.zeros(region.shape, tl.int32)
    for start in range(0, T, BLOCK_T):
        token = start + tl.arange(0, BLOCK_T)[None, :]
        counts = (token < T) & (region < R)[:, None]
        if CROP:
            counts &= _valid(token, region[:, None], SW, by_SW, h, w, by_w, valid_h, valid_w)
        offset = _offset(token, region[:, None], SW, by_SW, w, by_w, s_row, s_col, s_y, s_x)
        x = tl.load(
            X + offset[:, :, None] + channel[None, None, :],
            mask=counts[:, :, None] & there[:, None, :],
            other=0.0,
        )
        total += tl.sum(x.to(tl.float32), 1)
        count += tl.sum(counts.to(tl.int32), 1)
    return total / tl.maximum(count, 1).to(tl.float32)[:, None]


@triton.jit(do_not_specialize=SIZES)
def region_means(
    Q,
    K,
    MEANS,
    N,
    C,
    R,
    T,
    SW,
    h,
    w,
    by_SW,
    by_w,
    valid_h,
    valid_w,
    s_n,
    s_row,
    s_col,
    s_y,
    s_x,
    CROP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Average the queries or the keys of one region, for some of the channels.

    MEANS is (2, N, R, C): first the queries, then the keys.
    """
    blocks = tl.cdiv(C, BLOCK_C)
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    region = tl.program_id(0) // blocks % R
    image = tl.program_id(0) // (blocks * R)
    X = Q
    if image >= N:
        X = K
    X += (image % N).to(tl.int64) * s_n
    mean = _mean(
        X,
        region + tl.arange(0, 1),
        R,
        channel,
        C,
        T,
        SW,
        h,
        w,
        by_SW,
        by_w,
        valid_h,
        valid_w,
        s_row,
        s_col,
        s_y,
        s_x,
        CROP,
        BLOCK_T,
    )
    tl.store(
        MEANS + (image.to(tl.int64) * R + region) * C + channel[None, :],
        mean,
        mask=(channel < C)[None, :],
    )


@triton.jit(do_not_specialize=(*SIZES, 'topk'))
def route(
    Q,
    K,
    INDEX,
    C,
    R,
    topk,
    T,
    SW,
    h,
    w,
    by_SW,
    by_w,
    valid_h,
    valid_w,
    s_n,
    s_row,
    s_col,
    s_y,
    s_x,
    CROP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Choose the best k regions of some regions of one image: (N, R, k)."""
    tiles = tl.cdiv(R, BLOCK_M)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    own = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    region = tl.arange(0, BLOCK_R)
    affinity = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
    for start in range(0, C, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        query = _mean(
            Q + image * s_n,
            own,
            R,
            channel,
            C,
            T,
            SW,
            h,
            w,
            by_SW,
            by_w,
            valid_h,
            valid_w,
            s_row,
            s_col,
            s_y,
            s_x,
            CROP,
            BLOCK_T,
        )
        key = _mean(
            K + image * s_n,
            region,
            R,
            channel,
            C,
            T,
            SW,
            h,
            w,
            by_SW,
            by_w,
            valid_h,
            valid_w,
            s_row,
            s_col,
            s_y,
            s_x,
            CROP,
            BLOCK_T,
        )
        affinity += tl.dot(query, tl.trans(key), input_precision='ieee')
    if CROP:  # a region has no token on the map if its first is padding
        occupied = _valid(region * 0, region, SW, by_SW, h, w, by_w, valid_h, valid_w)
        affinity = tl.where(occupied[None, :], affinity, float('-inf'))

    # Compare integers: the bits of the affinity, changed so that they ascend with it (nan is
    # largest, -0 is 0), and below them the number of the region, descending.
    affinity += 0.0
    bits = affinity.to(tl.int32, bitcast=True)
    bits = tl.where(affinity == affinity, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)
    rank = (bits.to(tl.int64) << 32) | (BLOCK_R - 1 - region)[None, :]
    none = -0x7FFFFFFFFFFFFFFF - 1
    rank = tl.where((region < R)[None, :], rank, none)
    INDEX += (image * R + own) * topk
    for slot in range(topk):
        best = tl.max(rank, 1)
        chosen = BLOCK_R - 1 - (best & 0xFFFFFFFF)
        tl.store(INDEX + slot, chosen, mask=own < R)
        rank = tl.where(rank == best[:, None], none, rank)


@triton.jit(do_not_specialize=('R', 'topk'))
def readers(INDEX, START, READER, R, topk, BLOCK: tl.constexpr):
    """List the regions of one image that attend to one region, ascending.

    READER[n], from START[n, j] to START[n, j+1], lists those that attend to region j.
    """
    image = (tl.program_id(0) // R).to(tl.int64)
    region = tl.program_id(0) % R
    entries = R * topk
    INDEX += image * entries
    place = tl.arange(0, BLOCK)
    below = tl.zeros([BLOCK], tl.int32)
    for start in range(0, entries, BLOCK):
        routed = tl.load(INDEX + start + place, mask=start + place < entries, other=R)
        below += (routed < region).to(tl.int32)
    first = tl.sum(below, 0)
    START += image * (R + 1)
    tl.store(START + region, first)
    if region == R - 1:
        tl.store(START + R, entries)
    READER += image * entries
    for start in range(0, entries, BLOCK):
        routed = tl.load(INDEX + start + place, mask=start + place < entries, other=R)
        mine = (routed == region).to(tl.int32)
        tl.store(READER + first + tl.cumsum(mine, 0) - 1, (start + place) // topk, mask=mine != 0)
        first += tl.sum(mine, 0)


def inverse(region_index: Tensor) -> Tuple[Tensor, Tensor]:
    """Invert a routing index.

    Returns:
        start, (N, R+1), and reader, (N, R*k), int32: reader[n], from start[n, j] to start[n, j+1],
        lists the regions whose queries attend to region j, ascending.
    """
    batch, regions, topk = region_index.shape
    start = region_index.new_empty((batch, regions + 1), dtype=torch.int32)
    reader = region_index.new_empty((batch, regions * topk), dtype=torch.int32)
    block = min(1024, triton.next_power_of_2(regions * topk))
    grid = (batch * regions,)
    readers[grid](region_index, start, reader, regions, topk, BLOCK=block)
    return start, reader


def _route(query: Tensor, key: Tensor, topk: int, valid_h: int, valid_w: int) -> Tensor:
    """See :func:`biformer_mm.ops.routing_index`; without a valid size, both are 0."""
    triton_block.refuse_faulty(query)
    if query.stride(-1) != 1 or query.stride() != key.stride():
        query, key = query.contiguous(), key.contiguous()
    n, sh, sw, h, w, channels = query.shape
    index = _outputs(query, key, topk, valid_h, valid_w)
    with torch.cuda.device_of(query):
        if sh * sw * h * w > FEW_TOKENS:
            query, key = _means(query, key, valid_h, valid_w)
            valid_h, valid_w = -(-valid_h // h), -(-valid_w // w)
        block = max(BLOCK_ROWS, triton.next_power_of_2(sh * sw))
        tokens = triton.next_power_of_2(query.shape[3] * query.shape[4])
        grid = (n * triton.cdiv(sh * sw, BLOCK_ROWS),)
        route[grid](
            query,
            key,
            index,
            channels,
            sh * sw,
            topk,
            *_sizes(query, valid_h, valid_w),
            CROP=valid_h > 0,
            BLOCK_M=BLOCK_ROWS,
            BLOCK_R=block,
            BLOCK_T=min(4, max(1, 256 // block), tokens),
            BLOCK_C=32 if block <= 64 else 16,
            num_warps=4 if block <= 256 else 8,
        )
    return index


def _means(query: Tensor, key: Tensor, valid_h: int, valid_w: int) -> Tuple[Tensor, Tensor]:
    """Average each region; the results are maps of one token per region."""
    n, sh, sw, h, w, channels = query.shape
    means = query.new_empty((2, n, sh, sw, 1, 1, channels), dtype=torch.float32)
    tile = dict(BLOCK_T=32, BLOCK_C=64)
    grid = (2 * n * sh * sw * triton.cdiv(channels, tile['BLOCK_C']),)
    region_means[grid](
        query,
        key,
        means,
        n,
        channels,
        sh * sw,
        *_sizes(query, valid_h, valid_w),
        CROP=valid_h > 0,
        **tile,
    )
    query_means, key_means = means.unbind(0)
    return query_means, key_means


def _sizes(x: Tensor, valid_h: int, valid_w: int) -> Tuple[int, ...]:
    _, _, sw, h, w, _ = x.shape
    return (h * w, sw, h, w, reciprocal(sw), reciprocal(w), valid_h, valid_w, *x.stride()[:5])


def _outputs(query: Tensor, key: Tensor, topk: int, valid_h: int, valid_w: int) -> Tensor:
    regions = query.shape[1] * query.shape[2]
    return query.new_empty((query.shape[0], regions, topk), dtype=torch.int64)


# Counts the product of the means, as for PyTorch's ops.
routing = register_constant(
    'routing_index', _route, _outputs, count=lambda query, key, *_, **__: flops.routing(query)
)
