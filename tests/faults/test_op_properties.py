"""The op over all of its arguments' values: a finite result that is the
reference's, or an error of one line that names the argument."""

import collections

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_cases import INF, NAN, NO_FLAG, NO_INTEGER, NO_NAME, TOLERANCE, assert_equal, cases

from biformer_mm.ops import available_backends, region_attention
from biformer_mm.ops.backends import cpu, cpu_chunked
from biformer_mm.ops.dispatch import _BACKENDS

pytestmark = pytest.mark.faults

COUNTS = collections.Counter()


@pytest.fixture(scope='module', autouse=True)
def report():
    yield
    print(f'\ncases: {dict(COUNTS)}')


@st.composite
def op_inputs(draw, backends, dtypes):
    sides = st.integers(1, 4)
    n = draw(st.integers(0, 3))
    sh, sw, h, w = (draw(sides) for _ in range(4))
    heads = draw(sides)
    c = heads * draw(st.sampled_from([1, 2, 3, 8]))
    regions = sh * sw
    k = draw(st.integers(1, regions))
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    layout = draw(st.sampled_from(['regions', 'map', 'fused', 'channels', 'expanded']))
    shape = n, sh, sw, h, w, c
    if layout == 'fused':  # slices of one projection of a map
        qkv = normal(n, sh * h, sw * w, 3 * c).chunk(3, dim=-1)
    elif layout == 'map':
        qkv = [normal(n, sh * h, sw * w, c) for _ in range(3)]
    elif layout == 'channels':  # not the fastest axis
        qkv = [normal(c, *shape[:-1]).movedim(0, -1) for _ in range(3)]
    elif layout == 'expanded':
        qkv = [normal(1, *shape[1:]).expand(shape) for _ in range(3)]
    else:
        qkv = [normal(*shape) for _ in range(3)]
    if layout in ('fused', 'map'):
        qkv = [x.unflatten(2, (sw, w)).unflatten(1, (sh, h)).transpose(2, 3) for x in qkv]
    index = torch.randint(regions, (n, regions, k), generator=generator).to(
        draw(st.sampled_from([torch.int64, torch.int32]))
    )
    if draw(st.booleans()):
        index = index.transpose(1, 2).contiguous().transpose(1, 2)
    valid_size = draw(st.none() | st.tuples(st.integers(1, sh * h), st.integers(1, sw * w)))
    integer = draw(st.sampled_from([int, np.int64, np.int16]))
    if valid_size is not None:
        valid_size = draw(st.sampled_from([tuple, list]))(map(integer, valid_size))
    return dict(
        zip(('query', 'key', 'value'), qkv),
        region_index=index,
        num_heads=integer(heads),
        scale=draw(st.floats(-3, 3) | st.sampled_from([0, 1, np.float32(0.5)])),
        valid_size=valid_size,
        attend_padding=draw(st.booleans()),
        backend=draw(st.sampled_from(backends)),
    )


def broken_op_inputs(inputs):
    """(argument, what it must not be), of inputs that are right."""
    query, index = inputs['query'], inputs['region_index']
    sh, sw, h, w, c = query.shape[1:]
    for name in ('query', 'key', 'value'):
        for wrong in (
            None,
            2.0,
            'x',
            [1.0],
            query.numpy() if query.dtype == torch.float64 else {},
            query.long(),
            query.to(torch.complex64),
            query[..., 0],
            query.bool(),
            query[..., :0],
            query[:, :0],
            query.unsqueeze(0),
            query.to('meta'),
            torch.cat([query, query], dim=-1),
        ):
            if (
                name == 'query'
                or not isinstance(wrong, torch.Tensor)
                or wrong.dtype != query.dtype
                or (wrong.shape != query.shape or wrong.is_meta)
            ):
                yield name, wrong
    for wrong in (
        None,
        0,
        'x',
        [[[0]]],
        index.float(),
        index.bool(),
        index.to(torch.uint8),
        index.to(torch.int16),
        index[..., 0],
        index[..., :0],
        index[:, :-1],
        index.to('meta'),
        index.repeat(1, 1, sh * sw + 1),
    ):
        yield 'region_index', wrong
    if len(index):
        for wrong in (-1, sh * sw, 2**31 - 1, -(2**31)):
            other = index.clone()
            other[-1, -1, -1] = wrong
            yield 'region_index', other
    for wrong in (*NO_INTEGER, 0, -1, c + 1, 10**30):
        yield 'num_heads', wrong
    for wrong in (None, '1', NAN, INF, -INF, True, [1.0], query, 10**400, 1j):
        yield 'scale', wrong
    for wrong in (
        3,
        'xx',
        (1,),
        (1, 1, 1),
        (0, 1),
        (1, -1),
        (sh * h + 1, 1),
        (1, 10**30),
        (1.0, 1),
        ('1', 1),
        (True, 1),
        (None, None),
        {},
        NAN,
    ):
        yield 'valid_size', wrong
    for wrong in NO_FLAG:
        yield 'attend_padding', wrong
    for wrong in NO_NAME:
        yield 'backend', wrong


def check_op(data, backends, dtypes, what):
    inputs = data.draw(op_inputs(backends, dtypes))
    wrong = [None, *broken_op_inputs(inputs)]
    # A third of the cases.
    wrong = data.draw(st.sampled_from(wrong)) if data.draw(st.integers(0, 2)) == 0 else None
    if wrong:
        name, value = wrong
        # A tensor's error may be told of what it does not match.
        named = {'key': 'query, key and value', 'value': 'query, key and'}
        texts = [name, named.get(name, name), 'at least 1', 'k must be', 'heads', 'C=']
        inputs[name] = value
        with pytest.raises(ValueError) as error:
            region_attention(**inputs)
        message = str(error.value)
        assert any(text in message for text in texts), message
        assert '\n' not in message
        COUNTS[f'{what}, error'] += 1
        return

    names = ('query', 'key', 'value')
    valid_size, attend = inputs['valid_size'], inputs['attend_padding']
    tensors = [inputs[name] for name in names]
    if valid_size is not None and not attend:  # what is there is not used
        padding = torch.ones_like(tensors[0], dtype=torch.bool)
        n, sh, sw, h, w, c = padding.shape
        rows = torch.arange(sh * h).view(1, sh, 1, h, 1, 1) < valid_size[0]
        cols = torch.arange(sw * w).view(1, 1, sw, 1, w, 1) < valid_size[1]
        padding &= ~(rows & cols)
        tensors = [x.masked_fill(padding, NAN) for x in tensors]
    tensors = [x.detach().requires_grad_() for x in tensors]
    exact = [x.detach().double().requires_grad_() for x in tensors]
    out = region_attention(**{**inputs, **dict(zip(names, tensors))})
    expected = region_attention(**{**inputs, **dict(zip(names, exact)), 'backend': 'reference'})
    assert out.shape == tensors[0].shape and out.dtype == tensors[0].dtype
    tolerance = TOLERANCE[out.dtype]
    assert_equal(out, expected, tolerance, 'output')
    weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
    grads = torch.autograd.grad((out.double() * weight).sum(), tensors)
    right = torch.autograd.grad((expected * weight).sum(), exact)
    for name, grad, other in zip(names, grads, right):
        assert_equal(grad, other, 2 * tolerance, f'gradient of {name}')
    COUNTS[f'{what}, result'] += 1


@pytest.mark.parametrize('way, number', [('dense', 450), ('chunked', 400), ('many tiles', 400)])
def test_op(way, number, monkeypatch):
    monkeypatch.setattr(cpu, 'DENSE_TOKENS_PER_ROUTE', 1000 if way == 'dense' else 0)
    if way == 'many tiles':
        monkeypatch.setattr(cpu_chunked, 'TILE_BYTES', 1)
    backends = ['auto', 'reference', 'sdpa', 'cpu']
    backends = [name for name in backends if serves(name, torch.float32)]
    dtypes = [dtype for dtype in TOLERANCE if serves('sdpa', dtype)]

    @cases(number)
    @given(st.data())
    def check(data):
        check_op(data, backends, dtypes, 'op')

    check()


def serves(backend, dtype):
    return (
        backend == 'auto'
        or _BACKENDS[backend].unsupported_reason(torch.zeros(1, dtype=dtype), 1) is None
    )


@pytest.mark.skipif(
    'triton' not in available_backends() or not serves('triton', torch.float32),
    reason="Triton's kernels do not run on CPU tensors",
)
def test_op_in_triton():
    """Interpreted, which is slow: fewer cases; and has no bf16 products."""
    dtypes = [torch.float32, torch.float16]

    @cases(25)
    @given(st.data())
    def check(data):
        check_op(data, ['triton'], dtypes, 'triton')

    check()
