"""Kernels of gather-free region attention, in Triton.

Keys and values are read where they lie, through strides and the routing index:
nothing is gathered, partitioned or copied k times. The forward pass is an
online softmax over the flattened list of the routed regions' tokens; it keeps
the log-sum-exp, from which the backward pass recomputes the weights. dQ walks
the same list, dK and dV the inverse of the routing index: every sum has one
owner and one order, so the result is the same bit for bit, without atomics.

Shapes: N batch, R = Sh*Sw regions, T = h*w tokens per region, k routed
regions, C channels, m heads of d = C/m channels. Strides come as five numbers,
of N, Sh, Sw, h and w; that of C is 1. ``scale`` has a factor log2(e), as the
GPU has exp2, not exp; the log-sum-exp is to the base 2.
"""
import triton
import triton.language as tl


@triton.jit
def _there(token, region, SW, h, w, valid_h, valid_w, MASKED: tl.constexpr):
    """Whether entries of a region's token list are tokens that take part."""
    there = token < h * w
    if MASKED:
        there &= (region // SW) * h + token // w < valid_h
        there &= (region % SW) * w + token % w < valid_w
    return there


@triton.jit
def _offset(token, region, SW, w, s_row, s_col, s_y, s_x):
    """Where tokens lie, from the first of their image."""
    return ((region // SW) * s_row + (region % SW) * s_col +
            (token // w) * s_y + (token % w) * s_x)


@triton.jit
def _load(pointer, offset, there, channel, HEAD_DIM: tl.constexpr):
    """One head's part of tokens, zero where there is none: (tokens, d)."""
    return tl.load(
        pointer + offset[:, None] + channel[None, :],
        mask=there[:, None] & (channel < HEAD_DIM)[None, :],
        other=0.)


@triton.jit
def _store(pointer, offset, there, channel, x, HEAD_DIM: tl.constexpr):
    tl.store(
        pointer + offset[:, None] + channel[None, :],
        x.to(pointer.dtype.element_ty),
        mask=there[:, None] & (channel < HEAD_DIM)[None, :])


@triton.jit
def forward(Q, K, V, INDEX, OUT, LSE, scale, heads, R, topk, SW, h, w, valid_h,
            valid_w, i_n, i_row, i_col, i_y, i_x, o_n, o_row, o_col, o_y, o_x,
            HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
            BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
            PRECISION: tl.constexpr):
    """A tile of one region's queries, for one head of one image."""
    T = h * w
    tiles = tl.cdiv(T, BLOCK_M)
    region = tl.program_id(0) // tiles
    image = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    channel = tl.arange(0, BLOCK_D)
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM
    INDEX += (image * R + region) * topk

    row = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    row_there = _there(row, region, SW, h, w, valid_h, valid_w, MASKED)
    q = _load(Q, _offset(row, region, SW, w, i_row, i_col, i_y, i_x),
              row_there, channel, HEAD_DIM)

    largest = tl.full([BLOCK_M], float('-inf'), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, topk * T, BLOCK_N):
        position = start + tl.arange(0, BLOCK_N)
        slot = position // T
        token = position % T
        routed = tl.load(INDEX + slot, mask=slot < topk, other=0).to(tl.int32)
        there = (slot < topk) & _there(token, routed, SW, h, w, valid_h,
                                       valid_w, MASKED)
        offset = _offset(token, routed, SW, w, i_row, i_col, i_y, i_x)
        k = _load(K, offset, there, channel, HEAD_DIM)
        v = _load(V, offset, there, channel, HEAD_DIM)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        score = tl.where(there[None, :], score, float('-inf'))
        new = tl.maximum(largest, tl.max(score, 1))
        base = tl.where(new == float('-inf'), 0., new)
        weight = tl.exp2(score - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(weight, 1)
        out = out * shrink[:, None] + tl.dot(
            weight.to(v.dtype), v, input_precision=PRECISION)
        largest = new

    keyless = total == 0.
    out = out / tl.where(keyless, 1., total)[:, None]
    # An infinite log-sum-exp makes every weight of the backward pass zero.
    lse = tl.where(row_there & ~keyless, largest + tl.log2(total),
                   float('inf'))
    in_region = row < T
    tl.store(
        LSE + ((image * heads + head) * R + region) * T + row,
        lse,
        mask=in_region)
    _store(OUT + image * o_n + head * HEAD_DIM,
           _offset(row, region, SW, w, o_row, o_col, o_y, o_x), in_region,
           channel, tl.where(row_there[:, None], out, 0.), HEAD_DIM)


@triton.jit
def backward_query(Q, K, V, INDEX, OUT, DOUT, LSE, DELTA, DQ, scale, heads, R,
                   topk, SW, h, w, valid_h, valid_w, i_n, i_row, i_col, i_y,
                   i_x, o_n, o_row, o_col, o_y, o_x, HEAD_DIM: tl.constexpr,
                   BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
                   BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
                   PRECISION: tl.constexpr):
    """dQ of a tile of queries, and the sums over channels of out * dout."""
    T = h * w
    tiles = tl.cdiv(T, BLOCK_M)
    region = tl.program_id(0) // tiles
    image = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    channel = tl.arange(0, BLOCK_D)
    Q += image * i_n + head * HEAD_DIM
    K += image * i_n + head * HEAD_DIM
    V += image * i_n + head * HEAD_DIM
    INDEX += (image * R + region) * topk
    to_head = image * o_n + head * HEAD_DIM
    to_rows = ((image * heads + head) * R + region) * T

    row = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    in_region = row < T
    row_there = _there(row, region, SW, h, w, valid_h, valid_w, MASKED)
    offset = _offset(row, region, SW, w, o_row, o_col, o_y, o_x)
    q = _load(Q, _offset(row, region, SW, w, i_row, i_col, i_y, i_x),
              row_there, channel, HEAD_DIM)
    dout = _load(DOUT + to_head, offset, row_there, channel, HEAD_DIM)
    out = _load(OUT + to_head, offset, row_there, channel, HEAD_DIM)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
    tl.store(DELTA + to_rows + row, delta, mask=in_region)
    lse = tl.load(LSE + to_rows + row, mask=in_region, other=float('inf'))

    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, topk * T, BLOCK_N):
        position = start + tl.arange(0, BLOCK_N)
        slot = position // T
        token = position % T
        routed = tl.load(INDEX + slot, mask=slot < topk, other=0).to(tl.int32)
        there = (slot < topk) & _there(token, routed, SW, h, w, valid_h,
                                       valid_w, MASKED)
        offset = _offset(token, routed, SW, w, i_row, i_col, i_y, i_x)
        k = _load(K, offset, there, channel, HEAD_DIM)
        v = _load(V, offset, there, channel, HEAD_DIM)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        weight = tl.exp2(score - lse[:, None])
        weight = tl.where(there[None, :], weight, 0.)
        dweight = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
        dscore = weight * (dweight - delta[:, None])
        dq += tl.dot(dscore.to(k.dtype), k, input_precision=PRECISION)
    # 0.69 is ln(2): the gradient is of exp, not of exp2.
    _store(DQ + to_head, _offset(row, region, SW, w, o_row, o_col, o_y, o_x),
           in_region, channel, dq * (scale * 0.6931471805599453), HEAD_DIM)


@triton.jit
def backward_key(Q, K, V, START, READER, DOUT, LSE, DELTA, DK, DV, scale,
                 heads, R, topk, SW, h, w, valid_h, valid_w, i_n, i_row, i_col,
                 i_y, i_x, o_n, o_row, o_col, o_y, o_x, HEAD_DIM: tl.constexpr,
                 BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
                 PRECISION: tl.constexpr):
    """dK and dV of a tile of keys, from the queries that were routed there."""
    T = h * w
    tiles = tl.cdiv(T, BLOCK_N)
    region = tl.program_id(0) // tiles
    image = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    channel = tl.arange(0, BLOCK_D)
    to_head = image * o_n + head * HEAD_DIM
    Q += image * i_n + head * HEAD_DIM
    DOUT += to_head
    LSE += (image * heads + head) * R * T
    DELTA += (image * heads + head) * R * T

    key = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    key_there = _there(key, region, SW, h, w, valid_h, valid_w, MASKED)
    offset = _offset(key, region, SW, w, i_row, i_col, i_y, i_x)
    k = _load(K + image * i_n + head * HEAD_DIM, offset, key_there, channel,
              HEAD_DIM)
    v = _load(V + image * i_n + head * HEAD_DIM, offset, key_there, channel,
              HEAD_DIM)

    first = tl.load(START + image * (R + 1) + region)
    readers = tl.load(START + image * (R + 1) + region + 1) - first
    READER += image * R * topk + first
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, readers * T, BLOCK_M):
        position = start + tl.arange(0, BLOCK_M)
        slot = position // T
        token = position % T
        reader = tl.load(READER + slot, mask=slot < readers, other=0)
        there = (slot < readers) & _there(token, reader, SW, h, w, valid_h,
                                          valid_w, MASKED)
        q = _load(Q, _offset(token, reader, SW, w, i_row, i_col, i_y, i_x),
                  there, channel, HEAD_DIM)
        dout = _load(DOUT, _offset(token, reader, SW, w, o_row, o_col, o_y,
                                   o_x), there, channel, HEAD_DIM)
        at = reader * T + token
        lse = tl.load(LSE + at, mask=there, other=float('inf'))
        delta = tl.load(DELTA + at, mask=there, other=0.)
        score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
        weight = tl.exp2(score - lse[None, :])
        dv += tl.dot(weight.to(dout.dtype), dout, input_precision=PRECISION)
        dweight = tl.dot(v, tl.trans(dout), input_precision=PRECISION)
        dscore = weight * (dweight - delta[None, :])
        dk += tl.dot(dscore.to(q.dtype), q, input_precision=PRECISION)

    in_region = key < T
    offset = _offset(key, region, SW, w, o_row, o_col, o_y, o_x)
    dk = tl.where(key_there[:, None], dk * (scale * 0.6931471805599453), 0.)
    dv = tl.where(key_there[:, None], dv, 0.)
    _store(DK + to_head, offset, in_region, channel, dk, HEAD_DIM)
    _store(DV + to_head, offset, in_region, channel, dv, HEAD_DIM)
