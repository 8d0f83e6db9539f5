"""The op and the backbone over all of their arguments' values: a finite result
that is the reference's, or an error of one line that names the argument."""
import collections
import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS

from biformer_mm.models import BiFormer
from biformer_mm.ops import (available_backends, cpu, cpu_chunked,
                             region_attention)
from biformer_mm.ops.dispatch import _BACKENDS

pytestmark = pytest.mark.faults

BACKBONE_CASES = 700
# Relative to the largest number expected; half precision rounds to 2**-11 and
# 2**-8, and the backbone does so again after each layer. In fp64 PyTorch's
# fused attention was seen to be 2e-9 off.
TOLERANCE = {
    torch.float64: 1e-7,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 8e-2
}
NAN, INF = float('nan'), float('inf')
# Not an integer; not True or False; not a name.
NO_INTEGER = [None, '2', 2., NAN, [2], (), {}, True, 'auto ', np.float32(2)]
NO_FLAG = [None, 0, 1, 'False', [], np.array([True, False])]
NO_NAME = ['', 'cuda', None, 3, 2.5, True, ['cpu'], {}]
COUNTS = collections.Counter()


def cases(number):
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck))


@pytest.fixture(scope='module', autouse=True)
def report():
    yield
    print(f'\ncases: {dict(COUNTS)}')


def refuse(call, name, what):
    """The error must be one line that has the argument's name."""
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert name in message and '\n' not in message and len(message) < 1000
    COUNTS[f'{what}, error'] += 1


def assert_equal(found, expected, tolerance, what):
    assert found.isfinite().all(), what
    scale = max(1., expected.abs().max().item()) if expected.numel() else 1.
    error = (found.double() - expected.double()).abs()
    if error.numel():
        assert error.max() <= tolerance * scale, (what, error.max(), scale)


# ---- the op ----


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
        return torch.randn(
            *shape, generator=generator, dtype=torch.float64).to(dtype)

    layout = draw(
        st.sampled_from(['regions', 'map', 'fused', 'channels', 'expanded']))
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
        qkv = [
            x.unflatten(2, (sw, w)).unflatten(1, (sh, h)).transpose(2, 3)
            for x in qkv
        ]
    index = torch.randint(
        regions, (n, regions, k),
        generator=generator).to(draw(st.sampled_from([torch.int64,
                                                      torch.int32])))
    if draw(st.booleans()):
        index = index.transpose(1, 2).contiguous().transpose(1, 2)
    valid_size = draw(
        st.none() | st.tuples(
            st.integers(1, sh * h), st.integers(1, sw * w)))
    integer = draw(st.sampled_from([int, np.int64, np.int16]))
    if valid_size is not None:
        valid_size = draw(st.sampled_from([tuple, list]))(
            map(integer, valid_size))
    return dict(
        zip(('query', 'key', 'value'), qkv),
        region_index=index,
        num_heads=integer(heads),
        scale=draw(
            st.floats(-3, 3) | st.sampled_from([0, 1, np.float32(.5)])),
        valid_size=valid_size,
        attend_padding=draw(st.booleans()),
        backend=draw(st.sampled_from(backends)))


def broken_op_inputs(inputs):
    """(argument, what it must not be), of inputs that are right."""
    query, index = inputs['query'], inputs['region_index']
    sh, sw, h, w, c = query.shape[1:]
    for name in ('query', 'key', 'value'):
        for wrong in (None, 2., 'x', [1.], query.numpy()
                      if query.dtype == torch.float64 else {},
                      query.long(), query.to(torch.complex64), query[..., 0],
                      query.bool(), query[..., :0], query[:, :0],
                      query.unsqueeze(0), query.to('meta'),
                      torch.cat([query, query], dim=-1)):
            if name == 'query' or not isinstance(
                    wrong, torch.Tensor) or wrong.dtype != query.dtype or (
                        wrong.shape != query.shape or wrong.is_meta):
                yield name, wrong
    for wrong in (None, 0, 'x', [[[0]]], index.float(), index.bool(),
                  index.to(torch.uint8), index.to(torch.int16), index[..., 0],
                  index[..., :0], index[:, :-1], index.to('meta'),
                  index.repeat(1, 1, sh * sw + 1)):
        yield 'region_index', wrong
    if len(index):
        for wrong in (-1, sh * sw, 2**31 - 1, -2**31):
            other = index.clone()
            other[-1, -1, -1] = wrong
            yield 'region_index', other
    for wrong in (*NO_INTEGER, 0, -1, c + 1, 10**30):
        yield 'num_heads', wrong
    for wrong in (None, '1', NAN, INF, -INF, True, [1.], query, 10**400, 1j):
        yield 'scale', wrong
    for wrong in (3, 'xx', (1, ), (1, 1, 1), (0, 1), (1, -1),
                  (sh * h + 1, 1), (1, 10**30), (1., 1), ('1', 1),
                  (True, 1), (None, None), {}, NAN):
        yield 'valid_size', wrong
    for wrong in NO_FLAG:
        yield 'attend_padding', wrong
    for wrong in NO_NAME:
        yield 'backend', wrong


def check_op(data, backends, dtypes, what):
    inputs = data.draw(op_inputs(backends, dtypes))
    wrong = [None, *broken_op_inputs(inputs)]
    # A third of the cases.
    wrong = data.draw(st.sampled_from(wrong)) if data.draw(
        st.integers(0, 2)) == 0 else None
    if wrong:
        name, value = wrong
        # A tensor's error may be told of what it does not match.
        named = {'key': 'query, key and value', 'value': 'query, key and'}
        texts = [name, named.get(name, name), 'at least 1', 'k must be',
                 'heads', 'C=']
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
    expected = region_attention(**{
        **inputs,
        **dict(zip(names, exact)), 'backend': 'reference'
    })
    assert out.shape == tensors[0].shape and out.dtype == tensors[0].dtype
    tolerance = TOLERANCE[out.dtype]
    assert_equal(out, expected, tolerance, 'output')
    weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
    grads = torch.autograd.grad((out.double() * weight).sum(), tensors)
    right = torch.autograd.grad((expected * weight).sum(), exact)
    for name, grad, other in zip(names, grads, right):
        assert_equal(grad, other, 2 * tolerance, f'gradient of {name}')
    COUNTS[f'{what}, result'] += 1


@pytest.mark.parametrize('way, number', [('dense', 450), ('chunked', 400),
                                         ('many tiles', 400)])
def test_op(way, number, monkeypatch):
    monkeypatch.setattr(cpu, 'DENSE_TOKENS_PER_ROUTE',
                        1000 if way == 'dense' else 0)
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
    return backend == 'auto' or _BACKENDS[backend].unsupported_reason(
        torch.zeros(1, dtype=dtype), 1) is None


@pytest.mark.skipif(
    'triton' not in available_backends()
    or not serves('triton', torch.float32),
    reason="Triton's kernels do not run on CPU tensors")
def test_op_in_triton():
    """Interpreted, which is slow: fewer cases; and has no bf16 products."""
    dtypes = [torch.float32, torch.float16]

    @cases(50)
    @given(st.data())
    def check(data):
        check_op(data, ['triton'], dtypes, 'triton')

    check()


# ---- the backbone ----

FORMATS = ('contiguous', 'channels last', 'transposed', 'strided', 'expanded')


@st.composite
def backbone_arguments(draw):
    """What builds a small BiFormer; all of it may also be left out."""
    stages = draw(st.integers(1, 4))
    per_stage = st.lists

    def each(values):
        return draw(per_stage(values, min_size=stages, max_size=stages))

    number = draw(st.sampled_from([int, np.int64]))
    num_regions = draw(
        st.integers(1, 5) | st.just('auto')
        | per_stage(
            st.integers(1, 5) | st.just('auto'),
            min_size=stages,
            max_size=stages))
    per_stage_regions = num_regions if isinstance(
        num_regions, list) else [num_regions] * stages
    topks = [
        draw(
            st.none() | st.integers(1, 6 if s == 'auto' else s * s))
        for s in per_stage_regions
    ]
    arch = dict(
        embed_dims=each(st.sampled_from([8, 16, 24])),
        depths=each(st.integers(1, 2)),
        topks=tuple(topks),
        mlp_ratio=draw(st.sampled_from([.5, 1, 3, 2.5])),
        head_dim=number(draw(st.sampled_from([1, 2, 4, 8]))),
        stem=draw(st.sampled_from(['conv', 'patch'])),
        pos_conv=draw(st.booleans()))
    arguments = dict(
        arch=arch,
        num_regions=num_regions,
        in_channels=draw(st.integers(1, 4)),
        out_indices=sorted(
            draw(st.sets(st.integers(0, stages - 1), min_size=1))),
        out_norm=draw(st.sampled_from([None, 'LN'])))
    if draw(st.booleans()):  # of the constructor, over the dict's own
        arguments['topks'] = topks
        arch['topks'] = [10**6] * stages
    if arguments['out_indices'][-1] == stages - 1 and draw(st.booleans()):
        arguments['out_norm'] = 'BN'
    norm = dict(type=draw(st.sampled_from(['BN', 'BN', 'SyncBN'])))
    norm.update(
        draw(
            st.fixed_dictionaries({},
                                  optional=dict(
                                      requires_grad=st.booleans(),
                                      eps=st.sampled_from([1e-5, 1e-3, 1]),
                                      momentum=st.sampled_from([None, .1]),
                                      affine=st.booleans(),
                                      track_running_stats=st.booleans()))))
    optional = dict(
        padding=st.sampled_from(['legacy', 'masked']),
        drop_path_rate=st.sampled_from([0, 0., .3, .9]),
        norm_cfg=st.just(norm),
        norm_eval=st.booleans(),
        frozen_stages=st.integers(-1, stages).map(number),
        with_cp=st.booleans(),
        attn_backend=st.sampled_from(['auto', 'sdpa', 'reference']),
        init_cfg=st.none())
    arguments.update(draw(st.fixed_dictionaries({}, optional=optional)))
    return arguments


@st.composite
def images(draw, in_channels, sizes=st.integers(32, 160)):
    # Small ones are as telling, and quicker.
    side = st.one_of(st.integers(32, 64), sizes)
    shape = draw(st.integers(0, 3)), in_channels, draw(side), draw(side)
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    form = draw(st.sampled_from(FORMATS))
    if form == 'channels last':
        return normal(*shape).contiguous(memory_format=torch.channels_last)
    if form == 'transposed':
        return normal(n, c, w, h).transpose(2, 3)
    if form == 'strided':
        return normal(n, c, 2 * h, w + 3)[:, :, ::2, 3:]
    if form == 'expanded':
        return normal(1, c, h, w).expand(shape)
    return normal(*shape)


def expected_size(size, stage, stem):
    """Of a stage's map, by the sizes of its convolutions."""
    for step in range(stage + 2 if stem == 'conv' else stage + 1):
        if stem == 'conv':
            size = (size + 1) // 2
        else:
            size //= 2 if step else 4
    return size


def broken_arguments(arguments):
    """(argument, what it must not be), of arguments that are right."""
    arch = arguments['arch']
    stages = len(arch['depths'])
    for wrong in (None, 'large', '', 3, [], arch['depths'], True):
        yield 'arch', wrong
    yield 'arch', {k: v for k, v in arch.items() if k != 'stem'}
    yield 'arch', dict(arch, window=7)
    yield 'arch', {**arch, 3: 4}
    numbers = (0, -1, 2.5, '8', None, True, NAN)
    for key in ('embed_dims', 'depths', 'topks'):
        for wrong in (None, 3, 'xxxx'[:stages], [], {}, {8},
                      [*arch[key], arch[key][0]]):
            if not (key == 'depths' and wrong == [*arch[key], arch[key][0]]):
                yield key, dict(arch, **{key: wrong})
        for wrong in numbers:
            if not (key == 'topks' and wrong is None):
                yield key[:-1], dict(arch, **{key: [wrong] * stages})
    yield 'embed_dims', dict(arch, embed_dims=[9] * stages, head_dim=2)
    for key, wrongs in dict(
            mlp_ratio=(0, -1, None, '3', NAN, INF, 1e-9, [3], True),
            head_dim=(*NO_INTEGER, 0, -1),
            stem=('', 'Conv', None, [], 3),
            pos_conv=NO_FLAG).items():
        for wrong in wrongs:
            yield key, dict(arch, **{key: wrong})
    for wrong in (*NO_INTEGER, 0, -1, 'AUTO', [], [7] * (stages + 1),
                  [0] * stages, ['7'] * stages, [None] * stages,
                  [True] * stages, [2.] * stages, 'auto' * 4):
        yield 'num_regions', wrong
    for wrong in (3, 'xxxx'[:stages], [], [1] * (stages + 1), [0] * stages,
                  [-1] * stages, [1.] * stages, ['1'] * stages,
                  [True] * stages, {}):
        yield 'topk', ('topks', wrong)
    if all(isinstance(s, int) for s in [arguments['num_regions']]):
        yield 'topk', ('topks', [arguments['num_regions']**2 + 1] * stages)
    for wrong in ('', 'zeros', None, 0, True, ['legacy'], {}):
        yield 'padding', wrong
    for wrong in (*NO_INTEGER, 0, -3):
        yield 'in_channels', wrong
    for wrong in (None, 0, [], [stages], [-1], [0, 0], ['0'], [0.], [None],
                  [True], '0', {0}, [1, 0]):
        yield 'out_indices', wrong
    for wrong in ('ln', '', 3, True, ['LN'], dict(type='LN')):
        yield 'out_norm', wrong
    for wrong in (*NO_INTEGER, -1, 1, 1.5, -.1, INF):
        if wrong not in (2., ):
            yield 'drop_path_rate', wrong
    for wrong in (None, 'BN', 3, [], {}, dict(type='LN'), dict(type=None),
                  dict(type=['BN']), dict(type='BN', window=3),
                  dict(type='BN', eps=-1), dict(type='BN', eps='1'),
                  dict(type='BN', momentum='x'),
                  dict(type='BN', affine='no'),
                  dict(type='BN', requires_grad=1), {'type': 'BN', 3: 4},
                  dict(type='BN', num_features=8)):
        yield 'norm_cfg', wrong
    for name in ('norm_eval', 'with_cp'):
        for wrong in NO_FLAG:
            yield name, wrong
    for wrong in (*NO_INTEGER, -2, stages + 1):
        yield 'frozen_stages', wrong
    for wrong in NO_NAME:
        yield 'backend', ('attn_backend', wrong)
    for wrong in ([], [dict(type='Normal')], 'x', 3, True):
        yield 'init_cfg', wrong


def break_argument(arguments, name, wrong):
    if isinstance(wrong, tuple) and len(wrong) == 2 and isinstance(
            wrong[0], str):
        return {**arguments, wrong[0]: wrong[1]}
    if isinstance(wrong, dict) and 'depths' in wrong:
        # Elsewhere what is given for each stage would be refused first.
        kept = {k: v for k, v in arguments.items() if k != 'topks'}
        return dict(kept, arch=wrong)
    return {**arguments, name: wrong}


def broken_images(x):
    n, c, h, w = x.shape
    for wrong in (None, 'x', 3, x.numpy(), [x], x.long(), x.bool(),
                  x.to(torch.complex64), x[0] if n else x[:, 0], x[None],
                  x[:, :0], torch.cat([x, x], dim=1), x[:, :, :31],
                  x[..., :1], x[:, :, :0], x.new_zeros(())):
        yield wrong


def test_backbone():

    @cases(BACKBONE_CASES)
    @given(st.data())
    def check(data):
        arguments = data.draw(backbone_arguments())
        kind = data.draw(st.integers(0, 7))
        if kind < 3:
            name, wrong = data.draw(
                st.sampled_from(list(broken_arguments(arguments))))
            broken = break_argument(arguments, name, wrong)
            build = data.draw(
                st.sampled_from([
                    lambda: BiFormer(**broken),
                    lambda: MODELS.build(dict(type='BiFormer', **broken))
                ]))
            refuse(build, name, 'backbone')
            return
        x = data.draw(images(arguments['in_channels']))
        if kind == 3:
            model = BiFormer(**arguments).double()
            wrong = data.draw(st.sampled_from(list(broken_images(x))))
            refuse(lambda: model(wrong), 'input', 'backbone')
            return
        check_forward(data, arguments, x)

    check()


def check_forward(data, arguments, x):
    torch.manual_seed(0)
    training = data.draw(st.booleans())
    dtype = data.draw(
        st.sampled_from([torch.float64] * 3 + list(TOLERANCE)))
    model = BiFormer(**arguments).to(dtype).train(training)
    reference = copy.deepcopy(model)
    for layer in reference.modules():
        if hasattr(layer, 'attn_backend'):
            layer.attn_backend = 'reference'
    x = x.to(dtype)
    torch.manual_seed(1)
    try:
        outs = model(x)
    except ValueError as error:  # PyTorch's, and documented
        sync = model.training and arguments.get('norm_cfg', {}).get(
            'type') == 'SyncBN'
        expected = ('expected input tensor to be on'
                    if sync else 'Expected more than 1 value per channel')
        assert expected in str(error) and '\n' not in str(error)
        assert sync or len(x) <= 1
        COUNTS['backbone, error'] += 1
        return
    torch.manual_seed(1)  # of stochastic depth
    expected = reference(x)
    arch = arguments['arch']
    assert len(outs) == len(arguments['out_indices'])
    for i, out, right in zip(arguments['out_indices'], outs, expected):
        size = [expected_size(s, i, arch['stem']) for s in x.shape[2:]]
        assert out.shape == (len(x), arch['embed_dims'][i], *size)
        assert out.dtype == dtype
        assert_equal(out, right.double(), TOLERANCE[dtype], f'map {i}')
    loss = sum(out.square().sum() for out in outs)
    if training and dtype == torch.float64 and loss.requires_grad:
        loss.backward()
        for name, parameter in model.named_parameters():
            grad = parameter.grad
            assert grad is None or grad.isfinite().all(), name
            assert grad is None or parameter.requires_grad
    COUNTS['backbone, result'] += 1


@pytest.mark.parametrize('arch', list(BiFormer.arch_zoo))
def test_backbone_by_name(arch):
    model = BiFormer(arch, num_regions='auto').eval()
    with torch.no_grad():
        for shape in ((1, 3, 32, 45), (0, 3, 33, 32)):
            outs = model(torch.randn(shape))
            assert [len(out) for out in outs] == [shape[0]] * 4
            assert all(out.isfinite().all() for out in outs)
