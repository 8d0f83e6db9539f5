"""The examples of docs/other_networks.md. Those that are configs are built and
trained in test_models/test_layers/test_bra_plugin.py."""

import importlib.util
import re
import sys

import pytest
import torch
from plain_runner import run_without_openmmlab
from tool_runner import ROOT
from torch import nn

from biformer_mm.models import BRAPlugin

EXAMPLES = ROOT / 'examples'
DOCS = (ROOT / 'docs' / 'other_networks.md').read_text(encoding='utf-8')


def run(name, cwd, show=()):
    """Lines that an example prints where OpenMMLab is not installed."""
    code = f"import runpy; runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    return run_without_openmmlab(code, cwd=cwd, show=show).splitlines()


def test_docs_print_the_examples():
    named = re.findall(r'\n\[examples/(.+?)\]\(\.\./examples/\1\)\n', DOCS)
    folders = {name.partition('/')[0] for name in named}
    assert sorted(named) == sorted(
        str(path.relative_to(EXAMPLES))
        for folder in folders
        for path in EXAMPLES.glob(f'{folder}/*.py')
    )
    for name in named:
        text = (EXAMPLES / name).read_text(encoding='utf-8')
        assert f'```python\n{text}```\n' in DOCS, name


def test_plain_pytorch(tmp_path):
    assert run('plain_pytorch/attention.py', tmp_path) == [
        'layer (2, 56, 56, 64)',
        'op (2, 56, 56, 64)',
    ]


def test_yolo_neck_runs(tmp_path):
    assert run('yolo_neck/neck.py', tmp_path) == [
        '(2, 64, 80, 80)',
        '(2, 128, 40, 40)',
        '(2, 256, 20, 20)',
    ]


@pytest.mark.slow
def test_timm(tmp_path):
    pytest.importorskip('timm', reason='timm is not installed')
    assert run('timm_models/create.py', tmp_path, show=['timm']) == [
        'logits (2, 10)',
        'stride 8: 128 channels, (2, 128, 28, 28)',
        'stride 16: 256 channels, (2, 256, 14, 14)',
        'stride 32: 512 channels, (2, 512, 7, 7)',
    ]


@pytest.fixture
def neck(monkeypatch):
    spec = importlib.util.spec_from_file_location('neck', EXAMPLES / 'yolo_neck' / 'neck.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'neck', module)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.Neck()


def maps(size):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 64 << i, size >> i, size >> i, generator=generator) for i in range(3)]


def test_yolo_neck_has_one_layer_of_attention_that_changes_nothing(neck):
    neck.eval()
    assert sum(isinstance(m, BRAPlugin) for m in neck.modules()) == 1
    outs = neck(maps(32))
    neck.attention = nn.Identity()
    for found, expected in zip(outs, neck(maps(32))):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_yolo_neck_learns(neck):
    """All of it has gradients once the attention has left its zero."""
    inputs, targets = maps(32), maps(32)
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = sum((out - target).square().mean() for out, target in zip(neck(inputs), targets))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert all(p.grad.any() for p in neck.parameters())
    assert losses == sorted(losses, reverse=True)
