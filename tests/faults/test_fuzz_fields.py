"""The config fields that this package defines: a working object, or an error
that names the field, when it is built."""

import collections
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.fileio import get_file_backend
from mmengine.registry import HOOKS, MODELS
from random_cases import INF, NAN, NO_FLAG, NO_INTEGER, NO_NAME, cases

from biformer_mm.engine.hooks.whole_checkpoint_hook import _BACKEND
from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError

pytestmark = pytest.mark.faults

CASES = 400  # of each type
INTEGERS = st.sampled_from([int, np.int64])


def count(most, least=1):
    """Whole numbers of some type."""
    return st.builds(lambda kind, n: kind(n), INTEGERS, st.integers(least, most))


# Of each type: how to draw each of its fields right, and what it must not be.
# A field that must be given has no default.
FIELDS = {
    'BRAPlugin': (
        dict(
            in_channels=count(4).map(lambda n: n * 8),
            # Not 1, which divides every wrong number of channels below.
            head_dim=st.sampled_from([2, 4, 8]),
            num_regions=st.just('auto') | count(5, 2),
            topk=count(4),
            padding=st.sampled_from(['masked', 'legacy']),
            attn_backend=st.sampled_from(['auto', 'sdpa', 'reference']),
        ),
        {
            'in_channels': [*NO_INTEGER, 0, -8, 9, 10**30 + 1],
            'head_dim': [*NO_INTEGER, 0, -1, 5, 64],
            'num_regions': [*NO_INTEGER, 0, -2, 'AUTO', '7'],
            'topk': [*NO_INTEGER, 0, -1, '4'],
            'padding': ['', 'zeros', None, 0, True, [], {}],
            'attn_backend': NO_NAME,
            'no_such_field': [1],
        },
    ),
    'BiLevelRoutingAttention': (
        dict(
            embed_dims=count(4).map(lambda n: n * 8),
            num_heads=st.sampled_from([2, 4, 8]),
            num_regions=st.just('auto') | count(5, 2),
            topk=count(4),
            padding=st.sampled_from(['masked', 'legacy']),
            attn_backend=st.sampled_from(['auto', 'sdpa', 'reference']),
        ),
        {
            'embed_dims': [*NO_INTEGER, 0, -8, 10**30 + 1],
            'num_heads': [*NO_INTEGER, 0, -1, 5, 64],
            'num_regions': [*NO_INTEGER, 0, -2, 'AUTO', '7', (7, 7)],
            'topk': [*NO_INTEGER, 0, -1, 26, '4'],
            'padding': ['', 'zeros', None, 0, True, [], {}],
            'attn_backend': NO_NAME,
            'qkv_bias': [True],
        },
    ),
    'NonFiniteLossHook': (
        dict(max_skips=count(10**9, 0)),
        {'max_skips': [*NO_INTEGER, -1, -(10**30)], 'max_skip': [3]},
    ),
    'HangHook': (
        dict(timeout=count(10**6) | st.floats(1e-3, 1e9)),
        {'timeout': [None, '3', NAN, INF, 0, -1, [2], {}, True, 3j, 10**400], 'time_out': [3]},
    ),
    'GradientCheckHook': ({}, dict(updates=[5])),
    'PreemptionHook': ({}, dict(signals=[[15]])),
    'ResumableSeedHook': ({}, dict(seed=[0, None])),
    'RoutingVisualizationHook': (
        dict(
            stages=st.none() | st.lists(count(4), min_size=1, max_size=4),
            num_images=count(100),
            interval=count(100),
        ),
        {
            'stages': [
                3,
                'all',
                '3',
                [],
                (),
                {},
                {3},
                [0],
                [-1],
                ['3'],
                [2.0],
                [None],
                [True],
                [NAN],
                True,
            ],
            'num_images': [*NO_INTEGER, 0, -1],
            'interval': [*NO_INTEGER, 0, -1],
            'stage': [3],
        },
    ),
    'WholeCheckpointHook': (
        dict(
            on_failure=st.sampled_from(['stop', 'go_on']),
            interval=st.just(-1) | count(100),
            by_epoch=st.booleans(),
            save_optimizer=st.booleans(),
            save_param_scheduler=st.booleans(),
            save_last=st.booleans(),
            out_dir=st.sampled_from([None, 'elsewhere', 'ü b']),
            max_keep_ckpts=st.just(-1) | count(9),
            save_best=st.sampled_from([None, 'auto', 'mIoU', ['mIoU', 'mAP']]),
            filename_tmpl=st.sampled_from([None, 'a_{}.pth', '{:04d}.pth']),
            published_keys=st.sampled_from([None, 'meta', ['meta', 'x']]),
            save_begin=count(9, 0),
        ),
        {
            'on_failure': ['', 'STOP', None, 0, True, ['stop']],
            'interval': [*NO_INTEGER, 0, -2],
            'max_keep_ckpts': [*NO_INTEGER, 0, -2],
            'save_begin': [*NO_INTEGER, -1],
            'by_epoch': NO_FLAG,
            'save_optimizer': NO_FLAG,
            'save_param_scheduler': NO_FLAG,
            'save_last': NO_FLAG,
            'out_dir': [3, '', [], True],
            'save_best': [3, [3], ['auto', 'mIoU'], ['mIoU', 'mIoU'], True],
            'rule': [3, [3], ['less', 'less', 'less'], 'lesser'],
            'filename_tmpl': ['', 'x.pth', 3, '{a}', '{}{}', '{', []],
            'backend_args': [3, 'local', [], {}],
            'published_keys': [3, [3], ['a', 'a']],
            'no_such': [1],
            'max_keep_ckpt': [3],
        },
    ),
}
# Which fields an error may tell of instead, as they belong together.
TOGETHER = dict(
    attn_backend='backend',
    head_dim='in_channels',
    num_heads='embed_dims',
    rule='save_best',
    seed='takes no arguments',
    signals='takes no arguments',
)


@pytest.fixture(scope='module')
def backbone():
    """Of stages that route, route, route and do not."""
    return BiFormer(
        dict(
            embed_dims=(8, 8, 8, 8),
            depths=(1, 1, 1, 1),
            topks=(1, 2, 3, None),
            mlp_ratio=1,
            head_dim=8,
            stem='conv',
            pos_conv=True,
        ),
        num_regions=2,
    )


@pytest.mark.parametrize('kind', FIELDS)
def test_fields(kind, backbone, tmp_path):
    right, wrong = FIELDS[kind]
    registry = MODELS if kind.startswith('B') else HOOKS
    counts = collections.Counter()
    needed = {'in_channels', 'embed_dims', 'num_heads', 'num_regions', 'topk'}
    if kind == 'BRAPlugin':
        needed = {'in_channels', 'head_dim'}
    arguments = st.fixed_dictionaries(
        {name: values for name, values in right.items() if name in needed},
        optional={name: values for name, values in right.items() if name not in needed},
    )

    def build(fields):
        return registry.build(dict(type=kind, **fields))

    @cases(CASES)
    @given(st.data())
    def check(data):
        fields = data.draw(arguments)
        if data.draw(st.booleans()):
            use(kind, build(fields), fields, backbone, tmp_path)
            counts['working'] += 1
            return
        name = data.draw(st.sampled_from(sorted(wrong)))
        fields[name] = data.draw(st.sampled_from(wrong[name]))
        if kind == 'WholeCheckpointHook' and name == 'rule':
            fields.setdefault('save_best', 'mIoU')
        with pytest.raises((ValueError, TypeError, UsageError)) as error:
            build(fields)
        message = str(error.value)
        assert TOGETHER.get(name, name) in message or name in message, message
        assert '\n' not in message and len(message) < 1000
        counts['refused'] += 1

    check()
    print(f'\n{kind}: {dict(counts)}')
    assert len(counts) == 2


def use(kind, built, fields, backbone, tmp_path):
    """Do with an object what it is for, as far as it needs no training."""
    if kind == 'BRAPlugin':
        x = torch.randn(1, fields['in_channels'], 5, 7)
        # Its projection starts at zero.
        assert torch.equal(built(x), x)
    elif kind == 'BiLevelRoutingAttention':
        x = torch.randn(1, 5, 7, fields['embed_dims'])
        out = built(x)
        assert out.shape == x.shape and out.isfinite().all()
    elif kind == 'NonFiniteLossHook':
        assert built.max_skips == fields.get('max_skips', 0)
    elif kind == 'RoutingVisualizationHook':
        runner = SimpleNamespace(model=backbone)
        if set(fields.get('stages') or ()) <= {1, 2, 3}:
            built.before_train(runner)
        else:
            with pytest.raises(UsageError, match='stages that route'):
                built.before_train(runner)
    elif kind == 'WholeCheckpointHook':
        runner = SimpleNamespace(
            work_dir=str(tmp_path / 'run'),
            timestamp='1',
            message_hub=SimpleNamespace(runtime_info={}),
            logger=SimpleNamespace(info=lambda *_: None),
        )
        out_dir = fields.get('out_dir')
        if out_dir:
            built.out_dir = str(tmp_path / out_dir)
        built.before_train(runner)
        assert os.listdir(tmp_path) == []
        assert built.filename_tmpl.format(1) != built.filename_tmpl.format(2)


@pytest.mark.parametrize('fields', [{'x': 1}, {'backend_args': {}}])
def test_the_file_backend_takes_no_fields(fields):
    get_file_backend(backend_args=dict(backend=_BACKEND))
    with pytest.raises(TypeError, match='takes no arguments'):
        get_file_backend(backend_args=dict(backend=_BACKEND, **fields))
