"""The examples of docs/other_networks.md. Those that are configs are built and
trained in test_models/test_layers/test_bra_plugin.py."""

import re

import pytest
from plain_runner import run_without_openmmlab
from tool_runner import ROOT

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


@pytest.mark.slow
def test_timm(tmp_path):
    pytest.importorskip('timm', reason='timm is not installed')
    assert run('timm_models/create.py', tmp_path, show=['timm']) == [
        'logits (2, 10)',
        'stride 8: 128 channels, (2, 128, 28, 28)',
        'stride 16: 256 channels, (2, 256, 14, 14)',
        'stride 32: 512 channels, (2, 512, 7, 7)',
    ]


@pytest.mark.slow
def test_torchvision(tmp_path):
    pytest.importorskip('torchvision', reason='torchvision is not installed')
    assert run('torchvision_features/extract.py', tmp_path) == [
        'stride 8 (2, 128, 32, 32)',
        'stride 32 (2, 512, 8, 8)',
    ]
