"""The backbone over all of its arguments' values and images: finite maps that
are the reference's, or an error of one line that names the argument."""

import collections
import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS
from random_cases import INF, NAN, NO_FLAG, NO_INTEGER, NO_NAME, TOLERANCE, assert_equal, cases

from biformer_mm.models import BiFormer

pytestmark = pytest.mark.faults

BACKBONE_CASES = 700
FORMATS = ('contiguous', 'channels last', 'transposed', 'strided', 'expanded')
COUNTS = collections.Counter()


@pytest.fixture(scope='module', autouse=True)
def report():
    yield
    print(f'\ncases: {dict(COUNTS)}')


def refuse(call, name):
    """The error must be one line that has the argument's name."""
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert name in message and '\n' not in message and len(message) < 1000
    COUNTS['error'] += 1


@st.composite
def backbone_arguments(draw):
    """What builds a small BiFormer; all of it may also be left out."""
    stages = draw(st.integers(1, 4))

    def each(values):
        return draw(st.lists(values, min_size=stages, max_size=stages))

    number = draw(st.sampled_from([int, np.int64]))
    num_regions = draw(
        st.integers(1, 5)
        | st.just('auto')
        | st.lists(st.integers(1, 5) | st.just('auto'), min_size=stages, max_size=stages)
    )
    per_stage_regions = num_regions if isinstance(num_regions, list) else [num_regions] * stages
    topks = [
        draw(st.none() | st.integers(1, 6 if s == 'auto' else s * s)) for s in per_stage_regions
    ]
    arch = dict(
        embed_dims=each(st.sampled_from([8, 16, 24])),
        depths=each(st.integers(1, 2)),
        topks=tuple(topks),
        mlp_ratio=draw(st.sampled_from([0.5, 1, 3, 2.5])),
        head_dim=number(draw(st.sampled_from([1, 2, 4, 8]))),
        stem=draw(st.sampled_from(['conv', 'patch'])),
        pos_conv=draw(st.booleans()),
    )
    arguments = dict(
        arch=arch,
        num_regions=num_regions,
        in_channels=draw(st.integers(1, 4)),
        out_indices=sorted(draw(st.sets(st.integers(0, stages - 1), min_size=1))),
        out_norm=draw(st.sampled_from([None, 'LN'])),
    )
    if draw(st.booleans()):  # of the constructor, over the dict's own
        arguments['topks'] = topks
        arch['topks'] = [10**6] * stages
    if arguments['out_indices'][-1] == stages - 1 and draw(st.booleans()):
        arguments['out_norm'] = 'BN'
    norm = dict(type=draw(st.sampled_from(['BN', 'BN', 'SyncBN'])))
    norm.update(
        draw(
            st.fixed_dictionaries(
                {},
                optional=dict(
                    requires_grad=st.booleans(),
                    eps=st.sampled_from([1e-5, 1e-3, 1]),
                    momentum=st.sampled_from([None, 0.1]),
                    affine=st.booleans(),
                    track_running_stats=st.booleans(),
                ),
            )
        )
    )
    optional = dict(
        padding=st.sampled_from(['legacy', 'masked']),
        drop_path_rate=st.sampled_from([0, 0.0, 0.3, 0.9]),
        norm_cfg=st.just(norm),
        norm_eval=st.booleans(),
        frozen_stages=st.integers(-1, stages).map(number),
        with_cp=st.booleans(),
        attn_backend=st.sampled_from(['auto', 'sdpa', 'reference']),
        init_cfg=st.none(),
    )
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
        for wrong in (None, 3, 'xxxx'[:stages], [], {}, {8}, [*arch[key], arch[key][0]]):
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
        pos_conv=NO_FLAG,
    ).items():
        for wrong in wrongs:
            yield key, dict(arch, **{key: wrong})
    for wrong in (
        *NO_INTEGER,
        0,
        -1,
        'AUTO',
        [],
        [7] * (stages + 1),
        [0] * stages,
        ['7'] * stages,
        [None] * stages,
        [True] * stages,
        [2.0] * stages,
        'auto' * 4,
    ):
        yield 'num_regions', wrong
    for wrong in (
        3,
        'xxxx'[:stages],
        [],
        [1] * (stages + 1),
        [0] * stages,
        [-1] * stages,
        [1.0] * stages,
        ['1'] * stages,
        [True] * stages,
        {},
    ):
        yield 'topk', ('topks', wrong)
    if isinstance(arguments['num_regions'], int):
        yield 'topk', ('topks', [arguments['num_regions'] ** 2 + 1] * stages)
    for wrong in ('', 'zeros', None, 0, True, ['legacy'], {}):
        yield 'padding', wrong
    for wrong in (*NO_INTEGER, 0, -3):
        yield 'in_channels', wrong
    for wrong in (
        None,
        0,
        [],
        [stages],
        [-1],
        [0, 0],
        ['0'],
        [0.0],
        [None],
        [True],
        '0',
        {0},
        [1, 0],
    ):
        yield 'out_indices', wrong
    for wrong in ('ln', '', 3, True, ['LN'], dict(type='LN')):
        yield 'out_norm', wrong
    for wrong in (*NO_INTEGER, -1, 1, 1.5, -0.1, INF):
        yield 'drop_path_rate', wrong
    for wrong in (
        None,
        'BN',
        3,
        [],
        {},
        dict(type='LN'),
        dict(type=None),
        dict(type=['BN']),
        dict(type='BN', window=3),
        dict(type='BN', eps=-1),
        dict(type='BN', eps='1'),
        dict(type='BN', momentum='x'),
        dict(type='BN', affine='no'),
        dict(type='BN', requires_grad=1),
        {'type': 'BN', 3: 4},
        dict(type='BN', num_features=8),
    ):
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
    if isinstance(wrong, tuple) and len(wrong) == 2 and isinstance(wrong[0], str):
        return {**arguments, wrong[0]: wrong[1]}
    if isinstance(wrong, dict) and 'depths' in wrong:
        # Elsewhere what is given for each stage would be refused first.
        kept = {k: v for k, v in arguments.items() if k != 'topks'}
        return dict(kept, arch=wrong)
    return {**arguments, name: wrong}


def broken_images(x):
    n, c, h, w = x.shape
    yield from (
        None,
        'x',
        3,
        x.numpy(),
        [x],
        x.long(),
        x.bool(),
        x.to(torch.complex64),
        x[0] if n else x[:, 0],
        x[None],
        x[:, :0],
        torch.cat([x, x], dim=1),
        x[:, :, :31],
        x[..., :1],
        x[:, :, :0],
        x.new_zeros(()),
    )


def test_backbone():

    @cases(BACKBONE_CASES)
    @given(st.data())
    def check(data):
        arguments = data.draw(backbone_arguments())
        kind = data.draw(st.integers(0, 7))
        if kind < 3:
            name, wrong = data.draw(st.sampled_from(list(broken_arguments(arguments))))
            broken = break_argument(arguments, name, wrong)
            build = data.draw(
                st.sampled_from(
                    [
                        lambda: BiFormer(**broken),
                        lambda: MODELS.build(dict(type='BiFormer', **broken)),
                    ]
                )
            )
            refuse(build, name)
            return
        x = data.draw(images(arguments['in_channels']))
        if kind == 3:
            model = BiFormer(**arguments).double()
            wrong = data.draw(st.sampled_from(list(broken_images(x))))
            refuse(lambda: model(wrong), 'input')
            return
        check_forward(data, arguments, x)

    check()


def check_forward(data, arguments, x):
    torch.manual_seed(0)
    training = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from([torch.float64] * 3 + list(TOLERANCE)))
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
        sync = model.training and arguments.get('norm_cfg', {}).get('type') == 'SyncBN'
        expected = (
            'expected input tensor to be on' if sync else 'Expected more than 1 value per channel'
        )
        assert expected in str(error) and '\n' not in str(error)
        assert sync or len(x) <= 1
        COUNTS['error'] += 1
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
    COUNTS['result'] += 1


@pytest.mark.parametrize('arch', list(BiFormer.arch_zoo))
def test_backbone_by_name(arch):
    model = BiFormer(arch, num_regions='auto').eval()
    with torch.no_grad():
        for shape in ((1, 3, 32, 45), (0, 3, 33, 32)):
            outs = model(torch.randn(shape))
            assert [len(out) for out in outs] == [shape[0]] * 4
            assert all(out.isfinite().all() for out in outs)
