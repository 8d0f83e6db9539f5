"""Random and damaged input: refused in a sentence, and nothing left behind."""

import collections
import hashlib
import os
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_cases import cases
from tool_runner import ROOT, load_module

from biformer_mm.checkpoint import (
    CheckpointError,
    convert_model,
    convert_state_dict,
    read_checkpoint,
)
from biformer_mm.models import BiFormer

pytestmark = pytest.mark.faults

# ---- checkpoints ----

ARCH = dict(
    embed_dims=(8, 16),
    depths=(1, 1),
    topks=(2, None),
    mlp_ratio=2,
    head_dim=4,
    stem='conv',
    pos_conv=True,
)
WEIGHTS = BiFormer(ARCH, out_indices=(1,), out_norm='LN').state_dict()
PIECES = [
    'backbone.',
    'module.',
    'ema_',
    'stages.0.',
    'stages.1.0.',
    'norm1.',
    'norm.',
    'qkv.',
    'weight',
    'bias',
    'downsample_layers.',
    '0.',
    '9' * 5000,
    'head.',
    'aux_head.',
    'neck.lateral_convs.0.conv.weight',
    'decode_head.',
    'bbox_head.',
    'extra_norms.',
    '\n',
    '\0',
    '٣',
    '.',
    '',
]
NAMES = (
    st.sampled_from(sorted(WEIGHTS))
    | st.lists(st.sampled_from(PIECES), max_size=5).map(''.join)
    | st.text(max_size=8)
)
KEYS = NAMES | st.sampled_from([None, 3, 2.5, True, (1, 2), b'weight'])
TENSORS = st.sampled_from(
    [
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(8),
        torch.zeros(8, 16),
        torch.zeros(24, 8, 1, 1),
        torch.zeros(8, 3, 3),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(4, device='meta'),
        torch.zeros(2, dtype=torch.complex64),
    ]
)
PLAIN = st.sampled_from([None, 3, 'x', [], {}, [1], b'x', object])
STATES = st.dictionaries(KEYS, TENSORS | PLAIN, max_size=6)
NESTED = st.recursive(
    STATES | PLAIN | TENSORS,
    lambda inner: st.dictionaries(
        st.sampled_from(['state_dict', 'model', 'meta', 'optimizer', 7]), inner, max_size=3
    ),
    max_leaves=4,
)


@st.composite
def mutated(draw):
    """A backbone's weights of which a few are lost, renamed or replaced."""
    weights = dict(WEIGHTS)
    prefix = draw(st.sampled_from(['', 'backbone.', 'module.', 'ema_']))
    weights = {prefix + name: x for name, x in weights.items()}
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(list(weights)))
        value = weights.pop(name)
        change = draw(st.sampled_from(['drop', 'rename', 'replace']))
        if change == 'rename':
            weights[draw(KEYS)] = value
        elif change == 'replace':
            weights[name] = draw(TENSORS | PLAIN)
    outer = draw(st.sampled_from([None, 'state_dict', 'model']))
    return {outer: weights, 'meta': draw(PLAIN)} if outer else weights


@pytest.mark.parametrize('convert', [convert_state_dict, convert_model])
def test_state_dicts_are_converted_or_refused(convert):
    counts = collections.Counter()

    @cases(500)
    @given(NESTED | mutated())
    def check(state):
        before = repr(state)
        try:
            convert(state)
            counts['converted'] += 1
        except CheckpointError as error:
            counts['refused'] += 1
            assert '\n' not in str(error) and len(str(error)) > 20
        assert repr(state) == before

    check()
    print(f'\n{convert.__name__}: {dict(counts)}')
    assert len(counts) == 2


@pytest.mark.filterwarnings('ignore')  # of torch, on what it makes of bytes
def test_files_are_read_or_refused(tmp_path):
    counts = collections.Counter()
    contents = [b'', b'PK\x03\x04', b'\x80\x02', b'<html>']
    for options in ({}, dict(_use_new_zipfile_serialization=False)):
        path = tmp_path / 'whole.pth'
        torch.save(dict(meta=dict(epoch=3), state_dict=WEIGHTS), path, **options)
        contents.append(path.read_bytes())
    path.unlink()
    path = tmp_path / 'checkpoint.pth'

    @cases(400)
    @given(st.data())
    def check(data):
        content = data.draw(st.sampled_from(contents[-2:] + contents))
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content)))]
        content = bytearray(content)
        for _ in range(data.draw(st.integers(0, 8))):
            if content:
                # Half of them where the pickle or the headers are.
                end = data.draw(st.sampled_from([200, 2000, len(content)]))
                place = data.draw(st.integers(0, min(end, len(content)) - 1))
                content[place] = data.draw(st.integers(0, 255))
        content += data.draw(st.binary(max_size=20))
        path.write_bytes(content)
        try:
            read_checkpoint(str(path))
            counts['read'] += 1
        except CheckpointError as error:
            counts['refused'] += 1
            assert '\n' not in str(error) and str(path) in str(error)
        assert path.read_bytes() == content
        assert os.listdir(tmp_path) == [path.name]

    check()
    print(f'\nread_checkpoint: {dict(counts)}')
    assert len(counts) == 2


# ---- command lines ----

TOOLS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'tools').rglob('*.py'))
CONFIG = str(ROOT / 'configs' / 'retinanet_biformer_demo.py')
BAD_VALUES = [
    '',
    'nothing.py',
    '.',
    '-1',
    '0',
    '9' * 40,
    'nan',
    '1.5',
    '\n',
    'x' * 300,
    'ü',
    '--',
    '/dev/null/x',
]
OPTIONS = [
    '--out',
    '--shape',
    '--device',
    '--checkpoint',
    '--cfg-options',
    '--force',
    '--work-dir',
    '--launcher',
    '--unknown',
    '--amp',
    '--task',
    '--topk',
    '--sizes',
    '--smooth',
    '--keys',
    '--json',
    '--splits',
    '--workers',
    '--lock',
    '--query',
    '--stage',
    '--variant',
    '--score-thr',
]


def checkout():
    """Digest of what a tool could change."""
    digest = hashlib.sha256()
    for folder in ('tools', 'configs', 'requirements'):
        for path in sorted((ROOT / folder).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                digest.update(str(path).encode() + path.read_bytes())
    caches = {'.hypothesis', '.pytest_cache'}  # of the tests themselves
    names = sorted({p.name for p in ROOT.iterdir()} - caches)
    return digest.hexdigest(), names


@pytest.mark.parametrize('tool', TOOLS)
def test_command_lines_are_refused(tool, tmp_path, monkeypatch, capsys):
    """Of an unknown option, or without what the tool needs: nothing starts."""
    monkeypatch.setenv('TRITON_INTERPRET', '1')  # one of them unsets it
    monkeypatch.chdir(tmp_path)
    module = load_module(ROOT / tool)
    before = checkout()

    @cases(30)
    @given(st.lists(st.sampled_from(BAD_VALUES + OPTIONS + [CONFIG]), max_size=7))
    def check(words):
        # Always too much, so that parsing is all that is ever done.
        words = [w for w in words if w != '--'] + ['--no-such-option']
        monkeypatch.setattr(sys, 'argv', [tool, *words])
        with pytest.raises(SystemExit) as end:
            module.main()
        printed = capsys.readouterr()
        assert end.value.code == 2 and 'error: ' in printed.err
        assert 'Traceback' not in printed.err
        assert not os.listdir(tmp_path)

    check()
    assert checkout() == before
