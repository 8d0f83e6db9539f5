"""Triton kernels of region attention without a gather.

Keys and values are read in place, through strides and the routing index; nothing is gathered,
partitioned or copied k times. The forward pass is an online softmax over the flattened list of the
routed regions' tokens. It keeps the log-sum-exp, from which the backward pass recomputes the
weights. dQ walks the same list, dK and dV walk the inverse of the routing index. Each sum belongs
to one program and has one order, so results are bitwise reproducible, without atomics.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed regions, C channels,
m heads of d = C/m channels. Strides come as five numbers, of N, Sh, Sw, h and w, for the inputs (i)
and the outputs (o); the stride of C is 1. ``scale`` includes a factor log2(e), because GPUs have
exp2 and not exp. The log-sum-exp is to base 2.

Sizes are arguments, so that new ones need no compilation; ``by_T``, ``by_w`` and ``by_SW`` are
their reciprocals, see :func:`reciprocal`. Compile-time constants are the tiles (BLOCK_M queries,
BLOCK_N keys, BLOCK_D channels), d, and

- CROP: tokens at or beyond (valid_h, valid_w) are padding, and no queries.
- CROP_KEYS: the padding is not used as keys, either.
- EVEN: the tiles divide the list without remainder.
- LIKE_INPUT: gradients have the memory layout of the inputs, not of the outputs.
"""

import triton
import triton.language as tl

LN_2 = tl.constexpr(0.6931471805599453)
# Triton would compile these sizes again for 1 and for multiples of 16, with no gain in speed.
SIZES = ('heads', 'R', 'topk', 'T', 'SW', 'h', 'w', 'valid_h', 'valid_w', 'by_T', 'by_SW', 'by_w')


def reciprocal(divisor: int) -> int:
    """Return what :func:`_divide` multiplies by: 31 bits of 1/divisor, and a shift.

    GPUs have no integer division. Emulating it would take most of a kernel's instructions.
    """
    shift = (divisor - 1).bit_length()
    return -(-(2 ** (30 + shift)) // divisor) << 32 | shift


@triton.jit
def _divide(x, by):
    """Divide integers in 0 <= x < 2**30, exactly."""
    by = by.to(tl.uint64)
    high = tl.umulhi(x.to(tl.uint32) << 2, (by >> 32).to(tl.uint32))
    return (high >> by.to(tl.uint32)).to(tl.int32)


@triton.jit
def _valid(token, region, SW, by_SW, h, w, by_w, valid_h, valid_w):
    """Return whether tokens of regions are on the map, not in its padding."""
    region_row = _divide(region, by_SW)
    y = _divide(token, by_w)
    return (region_row * h + y < valid_h) & (
        (region - region_row * SW) * w + token - y * w < valid_w
    )


@triton.jit
def _offset(token, region, SW, by_SW, w, by_w, s_row, s_col, s_y, s_x):
    """Return the offsets of tokens from the first of their image."""
    region_row = _divide(region, by_SW)
    y = _divide(token, by_w)
    return region_row * s_row + (region - region_row * SW) * s_col + y * s_y + (token - y * w) * s_x


@triton.jit
def _tile(start, LIST, length, T, by_T, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    """Read part of the list of all tokens of the regions in LIST.

    Returns:
        Token, region, and whether the entry is before the end of the list.
    """
    position = start + tl.arange(0, BLOCK)
    slot = _divide(position, by_T)
    if EVEN:  # noqa: SIM108
        there = tl.full([BLOCK], True, tl.int1)
    else:
        there = position < length * T
    # Load each entry twice, side by side. Triton repeats loads of fewer elements than a program
    # has threads, and all that depends on them, for each layout that needs the result. For
    # cropped maps that was two thirds of the inner loops.
    twice = tl.load(
        (LIST + slot)[:, None] + tl.zeros([1, 2], tl.int32), mask=there[:, None], other=0
    )
    return position - slot * T, tl.max(twice.to(tl.int32), 1), there


@triton.jit
def _program(heads, R, tiles):
    """Return the image, head, region and tile that a program owns.

    The grid uses only x, because y and z end at 65535.
    """
    per_head = R * tiles
    of_all = tl.program_id(0) // per_head
    of_head = tl.program_id(0) - of_all * per_head
    image = of_all // heads
    region = of_head // tiles
    return (image.to(tl.int64), of_all - image * heads, region, of_head - region * tiles)


@triton.jit
def _load(pointer, offset, there, channel, HEAD_DIM: tl.constexpr):
    """Load one head of tokens, and zeros for masked ones: (tokens, d)."""
    return tl.load(
        pointer + offset[:, None] + channel[None, :],
        mask=there[:, None] & (channel < HEAD_DIM)[None, :],
        other=0.0,
    )


@triton.jit
def _store(pointer, offset, there, channel, x, HEAD_DIM: tl.constexpr):
    tl.store(
        pointer + offset[:, None] + channel[None, :],
        x.to(pointer.dtype.element_ty),
        mask=there[:, None] & (channel < HEAD_DIM)[None, :],
    )


@triton.jit(do_not_specialize=SIZES)
def forward(
    Q,
    K,
    V,
    INDEX,
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
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute a tile of queries of one region, for one head of one image."""
    image, head, region, tile = _program(heads, R, tl.cdiv(T, BLOCK_M))
    channel = tl.arange(0, BLOCK_D)
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM
    INDEX += (image * R + region) * topk

    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    in_region = row < T
    stop = topk * T
    queries = in_region
    if CROP:
        queries &= _valid(row, region, SW, by_SW, h, w, by_w, valid_h, valid_w)
        stop *= tl.max(queries.to(tl.int32), 0)  # no query, no work
    q = _load(
        Q,
        _offset(row, region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x),
        queries,
        channel,
        HEAD_DIM,
    )

    largest = tl.full([BLOCK_M], float('-inf'), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, stop, BLOCK_N):
        token, routed, keys = _tile(start, INDEX, topk, T, by_T, BLOCK_N, EVEN)
        if CROP_KEYS:
            keys &= _valid(token, routed, SW, by_SW, h, w, by_w, valid_h, valid_w)
        offset = _offset(token, routed, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
        k = _load(K, offset, keys, channel, HEAD_DIM)
        v = _load(V, offset, keys, channel, HEAD_DIM)
        # The -inf of masked entries is the addition of a multiply-add, so it is free.
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        score += tl.where(keys, 0.0, float('-inf'))[None, :]
        new = tl.maximum(largest, tl.max(score, 1))
        base = new
        if CROP_KEYS:
            base = tl.where(new == float('-inf'), 0.0, new)
        weight = tl.exp2(score - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(weight, 1)
        out = out * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
        largest = new

    keyless = total == 0.0
    total = tl.where(keyless, 1.0, total)
    out = out / total[:, None]
    # With an infinite log-sum-exp, all weights of the backward pass are zero.
    lse = tl.where(queries & ~keyless, largest + tl.log2(total), float('inf'))
    tl.store(LSE + ((image * heads + head) * R + region) * T + row, lse, mask=in_region)
    _store(
        OUT + image * o_n + head * HEAD_DIM,
        _offset(row, region, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x),
        in_region,
        channel,
        tl.where(queries[:, None], out, 0.0),
        HEAD_DIM,
    )


@triton.jit(do_not_specialize=SIZES)
def backward_query(
    Q,
    K,
    V,
    INDEX,
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
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    LIKE_INPUT: tl.constexpr,
):
    """Compute dQ of a tile of queries, and what dK and dV need.

    For each query, STATISTICS holds the log-sum-exp and the sum over channels of out * dout.
    """
    image, head, region, tile = _program(heads, R, tl.cdiv(T, BLOCK_M))
    channel = tl.arange(0, BLOCK_D)
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM
    INDEX += (image * R + region) * topk
    to_head = image * o_n + head * HEAD_DIM
    to_inputs = image * i_n + head * HEAD_DIM
    to_rows = ((image * heads + head) * R + region) * T

    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    in_region = row < T
    stop = topk * T
    queries = in_region
    if CROP:
        queries &= _valid(row, region, SW, by_SW, h, w, by_w, valid_h, valid_w)
        stop *= tl.max(queries.to(tl.int32), 0)  # no query, no work
    row_offset = _offset(row, region, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x)
    offset_of_q = _offset(row, region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
    q = _load(Q, offset_of_q, queries, channel, HEAD_DIM)
    dout = _load(DOUT + to_head, row_offset, queries, channel, HEAD_DIM)
    out = _load(OUT + to_head, row_offset, queries, channel, HEAD_DIM)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
    lse = tl.load(LSE + to_rows + row, mask=in_region, other=float('inf'))
    # Stored as pairs, because these take half the instructions to read.
    tl.store(
        STATISTICS + (to_rows + row)[:, None] * 2 + tl.arange(0, 2)[None, :],
        tl.join(lse, delta),
        mask=in_region[:, None],
    )

    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, stop, BLOCK_N):
        token, routed, keys = _tile(start, INDEX, topk, T, by_T, BLOCK_N, EVEN)
        if CROP_KEYS:
            keys &= _valid(token, routed, SW, by_SW, h, w, by_w, valid_h, valid_w)
        offset = _offset(token, routed, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
        k = _load(K, offset, keys, channel, HEAD_DIM)
        v = _load(V, offset, keys, channel, HEAD_DIM)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        score += tl.where(keys, 0.0, float('-inf'))[None, :]
        weight = tl.exp2(score - lse[:, None])
        dweight = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
        dscore = weight * (dweight - delta[:, None])
        dq += tl.dot(dscore.to(k.dtype), k, input_precision=PRECISION)
    # The factor turns the gradient of exp2 into that of exp.
    dq *= scale * LN_2
    if LIKE_INPUT:
        _store(DQ + to_inputs, offset_of_q, in_region, channel, dq, HEAD_DIM)
    else:
        _store(DQ + to_head, row_offset, in_region, channel, dq, HEAD_DIM)


@triton.jit(do_not_specialize=SIZES)
def backward_key(
    Q,
    K,
    V,
    START,
    READER,
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
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    LIKE_INPUT: tl.constexpr,
):
    """Compute dK and dV of a tile of keys, from the queries routed to them."""
    image, head, region, tile = _program(heads, R, tl.cdiv(T, BLOCK_N))
    channel = tl.arange(0, BLOCK_D)
    to_head = image * o_n + head * HEAD_DIM
    to_inputs = image * i_n + head * HEAD_DIM
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM
    DOUT += to_head
    STATISTICS += (image * heads + head) * R * T * 2
    first = tl.load(START + image * (R + 1) + region)
    readers = tl.load(START + image * (R + 1) + region + 1) - first
    READER += image * R * topk + first

    key = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    in_region = key < T
    stop = readers * T
    keys = in_region
    if CROP_KEYS:
        keys &= _valid(key, region, SW, by_SW, h, w, by_w, valid_h, valid_w)
        stop *= tl.max(keys.to(tl.int32), 0)  # no key, no work
    offset = _offset(key, region, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x)
    k = _load(K, offset, keys, channel, HEAD_DIM)
    v = _load(V, offset, keys, channel, HEAD_DIM)

    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, stop, BLOCK_M):
        token, reader, listed = _tile(start, READER, readers, T, by_T, BLOCK_M, EVEN)
        queries = listed
        if CROP:
            queries &= _valid(token, reader, SW, by_SW, h, w, by_w, valid_h, valid_w)
        q = _load(
            Q,
            _offset(token, reader, SW, by_SW, w, by_w, i_row, i_col, i_y, i_x),
            queries,
            channel,
            HEAD_DIM,
        )
        dout = _load(
            DOUT,
            _offset(token, reader, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x),
            queries,
            channel,
            HEAD_DIM,
        )
        at = (reader * T + token) * 2
        # `listed` suffices, because the log-sum-exp of padding is infinite. Triton would compute
        # the mask `queries` again for the layout of this load.
        pair = tl.load(
            STATISTICS + at[:, None] + tl.arange(0, 2)[None, :], mask=listed[:, None], other=0.0
        )
        lse, delta = tl.split(pair)
        if not EVEN:
            lse = tl.where(listed, lse, float('inf'))
        score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
        weight = tl.exp2(score - lse[None, :])
        dv += tl.dot(weight.to(dout.dtype), dout, input_precision=PRECISION)
        dweight = tl.dot(v, tl.trans(dout), input_precision=PRECISION)
        dscore = weight * (dweight - delta[None, :])
        dk += tl.dot(dscore.to(q.dtype), q, input_precision=PRECISION)

    if not LIKE_INPUT:
        to_inputs = to_head
        offset = _offset(key, region, SW, by_SW, w, by_w, o_row, o_col, o_y, o_x)
    dk = tl.where(keys[:, None], dk * (scale * LN_2), 0.0)
    dv = tl.where(keys[:, None], dv, 0.0)
    _store(DK + to_inputs, offset, in_region, channel, dk, HEAD_DIM)
    _store(DV + to_inputs, offset, in_region, channel, dv, HEAD_DIM)
