"""The converter of released checkpoints, as a user runs it."""

import hashlib
import os
import re
import sys

import golden
import pytest
import torch
from tool_runner import ROOT, load_module, run_tool

from biformer_mm.checkpoint import read_checkpoint
from biformer_mm.models import BiFormer

TOOL = 'model_converters/biformer_to_mm.py'


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture(scope='module')
def tool():
    """The tool as a module."""
    return load_module(ROOT / 'tools' / TOOL)


@pytest.fixture
def convert(tool, monkeypatch, capsys):
    """Call the tool in this process; give what it printed."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, args)])
        tool.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def src(tmp_path):
    """A released classifier."""
    path = tmp_path / 'released.pth'
    torch.save(
        dict(
            model=golden.section(golden.load('classifier_s7'), 'state'),
            optimizer=dict(state={}),
            epoch=299,
        ),
        path,
    )
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_converts_and_says_what_it_did(src, tmp_path):
    output = run_tool(TOOL, 'released.pth', 'ours.pth', cwd=tmp_path)
    *lines, last = output.strip().splitlines()
    written = tmp_path / last
    sha = digest(written)
    assert last == f'ours-{sha[:8]}.pth'
    assert lines[-1] == f'a classifier of mmpretrain, sha256 {sha}'
    assert f'sha256 {digest(src)}' in lines
    released = golden.section(golden.load('classifier_s7'), 'state')
    rows = {tuple(row[:2]): row[2:] for row in (re.split(r'  +', line) for line in lines)}
    assert rows['renamed', 'backbone'] == [
        str(len(released) - 2),
        'downsample_layers.0.0.weight -> backbone.stem.0.weight',
    ]
    assert rows['renamed', 'head'] == ['2', 'head.weight -> head.fc.weight']
    assert rows['dropped', 'training state'] == ['2', 'optimizer']

    # Nothing but weights and class names, with no help from us.
    loaded = torch.load(written, weights_only=True)
    assert set(loaded) == {'meta', 'state_dict'}
    model = BiFormer(
        golden.small_arch()[0],
        out_indices=(3,),
        out_norm='BN',
        init_cfg=dict(type='Pretrained', checkpoint=str(written)),
    )
    model.init_weights()
    assert torch.equal(model.stem[0].weight, released['downsample_layers.0.0.weight'])
    assert torch.equal(loaded['state_dict']['head.fc.bias'], released['head.bias'])


def test_keeps_the_head_of_token_labelling_where_asked(src, convert, tmp_path):
    dst = tmp_path / 'ours'
    with pytest.raises(SystemExit, match=f'--token-head: {src} has no head of token labelling'):
        convert(src, dst, '--token-head')
    assert [*tmp_path.iterdir()] == [src]
    content = torch.load(src, weights_only=True)
    content['model']['aux_head.weight'] = torch.ones(10, 96)
    content['model']['aux_head.bias'] = torch.ones(10)
    torch.save(content, src)
    kept = read_checkpoint(convert(src, dst, '--token-head').splitlines()[-1])['state_dict']
    left_out = read_checkpoint(convert(src, dst).splitlines()[-1])['state_dict']
    assert kept.keys() - left_out.keys() == {'head.aux_head.weight', 'head.aux_head.bias'}
    assert kept['head.aux_head.weight'].equal(torch.ones(10, 96))


def test_overwrites_with_force_alone(src, convert, tmp_path):
    dst = tmp_path / 'ours'
    written = tmp_path / convert(src, dst).splitlines()[-1]
    before = files(tmp_path)
    assert len(before) == 2
    with pytest.raises(SystemExit, match=f'{written} exists; add --force'):
        convert(src, dst)
    assert files(tmp_path) == before
    written.write_bytes(b'')
    assert str(written) == convert(src, dst, '--force').splitlines()[-1]
    assert files(tmp_path) == before


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError('disk full')])
def test_an_interruption_leaves_nothing(error, src, convert, tmp_path, monkeypatch):

    def save(checkpoint, file):
        file.write(b'half of it')
        raise error

    before = files(tmp_path)
    monkeypatch.setattr(torch, 'save', save)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else SystemExit
    with pytest.raises(expected) as raised:
        convert(src, tmp_path / 'ours.pth')
    assert files(tmp_path) == before
    if expected is SystemExit:
        assert 'ours.pth cannot be written: disk full' in str(raised.value)


def test_the_file_appears_when_it_is_whole(src, convert, tool, tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watch(unfinished, path):
        # In the same folder, so that no copy is made, and readable by then.
        assert os.path.dirname(unfinished) == os.path.dirname(path)
        assert not os.path.exists(path)
        seen.append(len(read_checkpoint(unfinished)['state_dict']))
        replace(unfinished, path)

    monkeypatch.setattr(tool.os, 'replace', watch)
    convert(src, tmp_path / 'ours.pth')
    assert seen == [len(torch.load(src, weights_only=True)['model'])]
    assert len(files(tmp_path)) == 2


def test_only_trust_runs_code(src, convert, tmp_path):
    proof = tmp_path / 'proof'
    torch.save(dict(torch.load(src, weights_only=True), args=Runs(f'touch {proof}')), src)
    before = files(tmp_path)
    with pytest.raises(
        SystemExit,
        match=f'^biformer_to_mm.py: error: {src} would run code when '
        'read: .* --trust of the tools$',
    ):
        convert(src, tmp_path / 'ours.pth')
    assert files(tmp_path) == before
    last = convert(src, tmp_path / 'ours.pth', '--trust').splitlines()[-1]
    assert proof.exists()
    torch.load(last, weights_only=True)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            ['released.pth', 'ours.pth', '--task', 'det'],
            "released.pth is a classifier, not a detector; leave the task 'det' out",
        ),
        (['released.pth', 'nowhere/ours.pth'], 'DST: there is no folder nowhere; make'),
        (['other.pth', 'ours.pth'], 'there is no checkpoint other.pth; give'),
        (
            ['resnet.pth', 'ours.pth'],
            'resnet.pth is not a BiFormer classifier, .*: 1 of its 1 names',
        ),
    ],
)
def test_wrong_use_gets_one_line(arguments, message, src, convert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'conv1.weight': torch.ones(1)}, 'resnet.pth')
    before = files(tmp_path)
    with pytest.raises(SystemExit, match=f'^biformer_to_mm.py: error: {message}') as end:
        convert(*arguments)
    assert '\n' not in str(end.value)
    assert files(tmp_path) == before
