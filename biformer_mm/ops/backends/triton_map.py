"""Triton kernels for small regions: each query sees the whole map through a mask.

A tensor core's product has 16 rows. With regions of 4 tokens, three quarters of them are empty,
and the program of each region reads its k regions of keys again. For maps of few keys, see
:func:`.triton_config.sees_map`, a program here owns tokens of many regions, reads each key of the
map once, and adds a bias to the scores: -inf if the query's region is not routed to the key's,
else log2 of how often it is.

Arguments are those of :mod:`.triton_kernels`, with BIAS in place of the routing index. The place
of a token is region * T + its index in the region.
"""

import triton
import triton.language as tl

from .triton_kernels import LN_2, SIZES, _divide, _load, _offset, _program, _store, _valid

# Keys come in whole tiles of this size; the bias is -inf beyond the last key.
TILE = tl.constexpr(64)


@triton.jit
def _places(
    start,
    R,
    T,
    by_T,
    SW,
    by_SW,
    h,
    w,
    by_w,
    valid_h,
    valid_w,
    BLOCK: tl.constexpr,
    CROP: tl.constexpr,
):
    """Locate BLOCK tokens of the map, from one place on.

    Returns:
        Place, token and region; whether the padded map has the place; and whether the token
        counts (padding does not, with CROP).
    """
    place = start + tl.arange(0, BLOCK)
    there = place < R * T
    region = tl.minimum(_divide(place, by_T), R - 1)
    token = place - region * T
    counts = there
    if CROP:
        counts &= _valid(token, region, SW, by_SW, h, w, by_w, valid_h, valid_w)
    return place, token, region, there, counts


@triton.jit(do_not_specialize=SIZES)
def map_bias(
    INDEX,
    BIAS,
    scale,
    heads,
    R,
    topk,
    T,
    SW,
    h,
    w,
    by_T,
    by_SW,
    by_w,
    valid_h,
    valid_w,
    i_n,
    i_row,
    i_col,
    i_y,
    i_x,
    o_n,
    o_row,
    o_col,
    o_y,
    o_x,
    BLOCK_K: tl.constexpr,
    OF_KEYS: tl.constexpr,
    CROP_KEYS: tl.constexpr,
):
    """Compute what is added to the scores of one region's tokens: (N, R, places).

    With OF_KEYS the region's tokens are the keys and the places are those of queries, otherwise
    the other way round.
    """
    image = (tl.program_id(0) // R).to(tl.int64)
    own = tl.program_id(0) % R
    INDEX += image * R * topk
    padded = tl.cdiv(R * T, TILE) * TILE
    BIAS += (image * R + own) * padded
    slot = tl.arange(0, BLOCK_K)
    for start in range(0, padded, TILE):
        place, token, region, there, counts = _places(
            start,
            R,
            T,
            by_T,
            SW,
            by_SW,
            h,
            w,
            by_w,
            valid_h,
            valid_w,
            TILE,
            CROP_KEYS and not OF_KEYS,
        )
        if OF_KEYS:
            reader, read = region, own
        else:
            reader, read = tl.full([TILE], 0, tl.int32) + own, region
        routed = tl.load(
            INDEX + reader[None, :] * topk + slot[:, None], mask=(slot < topk)[:, None], other=-1
        )
        times = tl.sum((routed == read).to(tl.int32), 0)
        bias = tl.log2(tl.maximum(times, 1).to(tl.float32))
        tl.store(BIAS + place, tl.where(counts & (times > 0), bias, float('-inf')))


@triton.jit(do_not_specialize=SIZES)
def map_forward(
    Q,
    K,
    V,
    BIAS,
    OUT,
    LSE,
    scale,
    heads,
    R,
    topk,
    T,
    SW,
    h,
    w,
    by_T,
    by_SW,
    by_w,
    valid_h,
    valid_w,
    i_n,
    i_row,
    i_col,
    i_y,
    i_x,
    o_n,
    o_row,
    o_col,
    o_y,
    o_x,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CROP: tl.constexpr,
    CROP_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute a tile of queries of one image, for one head."""
    image, head, _, tile = _program(heads, 1, tl.cdiv(R * T, BLOCK_M))
    channel = tl.arange(0, BLOCK_D)
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM

    row, token, region, on_map, queries = _places(
        tile * BLOCK_M, R, T, by_T, SW, by_SW, h, w, by_w, valid_h, valid_w, BLOCK_M, CROP
    )
    q = _load(
        Q,
        _offset(token, region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x),
        queries,
        channel,
        HEAD_DIM,
    )
    BIAS += (image * R + region) * (tl.cdiv(R * T, TILE) * TILE)

    largest = tl.full([BLOCK_M], float('-inf'), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, R * T, BLOCK_N):
        key, key_token, key_region, there, keys = _places(
            start, R, T, by_T, SW, by_SW, h, w, by_w, valid_h, valid_w, BLOCK_N, CROP_KEYS
        )
        offset = _offset(key_token, key_region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
        k = _load(K, offset, keys, channel, HEAD_DIM)
        v = _load(V, offset, keys, channel, HEAD_DIM)
        bias = tl.load(BIAS[:, None] + key[None, :])
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        score += bias
        new = tl.maximum(largest, tl.max(score, 1))
        base = tl.where(new == float('-inf'), 0.0, new)
        weight = tl.exp2(score - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(weight, 1)
        out = out * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
        largest = new

    keyless = total == 0.0
    total = tl.where(keyless, 1.0, total)
    lse = tl.where(queries & ~keyless, largest + tl.log2(total), float('inf'))
    tl.store(LSE + (image * heads + head) * R * T + row, lse, mask=on_map)
    _store(
        OUT + image * o_n + head * HEAD_DIM,
        _offset(token, region, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x),
        on_map,
        channel,
        tl.where(queries[:, None], out / total[:, None], 0.0),
        HEAD_DIM,
    )


@triton.jit(do_not_specialize=SIZES)
def map_backward_query(
    Q,
    K,
    V,
    BIAS,
    OUT,
    DOUT,
    LSE,
    STATISTICS,
    DQ,
    scale,
    heads,
    R,
    topk,
    T,
    SW,
    h,
    w,
    by_T,
    by_SW,
    by_w,
    valid_h,
    valid_w,
    i_n,
    i_row,
    i_col,
    i_y,
    i_x,
    o_n,
    o_row,
    o_col,
    o_y,
    o_x,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CROP: tl.constexpr,
    CROP_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    LIKE_INPUT: tl.constexpr,
):
    """Compute dQ and STATISTICS of a tile of queries of one image, for one head."""
    image, head, _, tile = _program(heads, 1, tl.cdiv(R * T, BLOCK_M))
    channel = tl.arange(0, BLOCK_D)
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM
    to_head = image * o_n + head * HEAD_DIM
    to_inputs = image * i_n + head * HEAD_DIM

    row, token, region, on_map, queries = _places(
        tile * BLOCK_M, R, T, by_T, SW, by_SW, h, w, by_w, valid_h, valid_w, BLOCK_M, CROP
    )
    offset_of_q = _offset(token, region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
    q = _load(Q, offset_of_q, queries, channel, HEAD_DIM)
    row_offset = _offset(token, region, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x)
    dout = _load(DOUT + to_head, row_offset, queries, channel, HEAD_DIM)
    out = _load(OUT + to_head, row_offset, queries, channel, HEAD_DIM)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
    to_row = (image * heads + head) * R * T + row
    lse = tl.load(LSE + to_row, mask=on_map, other=float('inf'))
    tl.store(
        STATISTICS + to_row[:, None] * 2 + tl.arange(0, 2)[None, :],
        tl.join(lse, delta),
        mask=on_map[:, None],
    )
    BIAS += (image * R + region) * (tl.cdiv(R * T, TILE) * TILE)

    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, R * T, BLOCK_N):
        key, key_token, key_region, there, keys = _places(
            start, R, T, by_T, SW, by_SW, h, w, by_w, valid_h, valid_w, BLOCK_N, CROP_KEYS
        )
        offset = _offset(key_token, key_region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
        k = _load(K, offset, keys, channel, HEAD_DIM)
        v = _load(V, offset, keys, channel, HEAD_DIM)
        bias = tl.load(BIAS[:, None] + key[None, :])
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        weight = tl.exp2(score + bias - lse[:, None])
        dweight = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
        dscore = weight * (dweight - delta[:, None])
        dq += tl.dot(dscore.to(k.dtype), k, input_precision=PRECISION)
    dq *= scale * LN_2
    if LIKE_INPUT:
        _store(DQ + to_inputs, offset_of_q, on_map, channel, dq, HEAD_DIM)
    else:
        _store(DQ + to_head, row_offset, on_map, channel, dq, HEAD_DIM)


@triton.jit(do_not_specialize=SIZES)
def map_backward_key(
    Q,
    K,
    V,
    BIAS,
    DOUT,
    STATISTICS,
    DK,
    DV,
    scale,
    heads,
    R,
    topk,
    T,
    SW,
    h,
    w,
    by_T,
    by_SW,
    by_w,
    valid_h,
    valid_w,
    i_n,
    i_row,
    i_col,
    i_y,
    i_x,
    o_n,
    o_row,
    o_col,
    o_y,
    o_x,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CROP: tl.constexpr,
    CROP_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    LIKE_INPUT: tl.constexpr,
):
    """Compute dK and dV of a tile of keys of one image, from all its queries."""
    image, head, _, tile = _program(heads, 1, tl.cdiv(R * T, BLOCK_N))
    channel = tl.arange(0, BLOCK_D)
    to_head = image * o_n + head * HEAD_DIM
    to_inputs = image * i_n + head * HEAD_DIM
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM
    DOUT += to_head
    STATISTICS += (image * heads + head) * R * T * 2

    key, token, region, on_map, keys = _places(
        tile * BLOCK_N, R, T, by_T, SW, by_SW, h, w, by_w, valid_h, valid_w, BLOCK_N, CROP_KEYS
    )
    offset = _offset(token, region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
    k = _load(K, offset, keys, channel, HEAD_DIM)
    v = _load(V, offset, keys, channel, HEAD_DIM)
    BIAS += (image * R + region) * (tl.cdiv(R * T, TILE) * TILE)

    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, R * T, BLOCK_M):
        row, row_token, row_region, there, queries = _places(
            start, R, T, by_T, SW, by_SW, h, w, by_w, valid_h, valid_w, BLOCK_M, CROP
        )
        q = _load(
            Q,
            _offset(row_token, row_region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x),
            queries,
            channel,
            HEAD_DIM,
        )
        dout = _load(
            DOUT,
            _offset(row_token, row_region, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x),
            queries,
            channel,
            HEAD_DIM,
        )
        pair = tl.load(
            STATISTICS + row[:, None] * 2 + tl.arange(0, 2)[None, :], mask=there[:, None], other=0.0
        )
        lse, delta = tl.split(pair)
        lse = tl.where(there, lse, float('inf'))
        bias = tl.load(BIAS[:, None] + row[None, :])
        score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
        weight = tl.exp2(score + bias - lse[None, :])
        dv += tl.dot(weight.to(dout.dtype), dout, input_precision=PRECISION)
        dweight = tl.dot(v, tl.trans(dout), input_precision=PRECISION)
        dscore = weight * (dweight - delta[None, :])
        dk += tl.dot(dscore.to(q.dtype), q, input_precision=PRECISION)

    if not LIKE_INPUT:
        to_inputs = to_head
        offset = _offset(token, region, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x)
    dk = tl.where(keys[:, None], dk * (scale * LN_2), 0.0)
    dv = tl.where(keys[:, None], dv, 0.0)
    _store(DK + to_inputs, offset, on_map, channel, dk, HEAD_DIM)
    _store(DV + to_inputs, offset, on_map, channel, dv, HEAD_DIM)
