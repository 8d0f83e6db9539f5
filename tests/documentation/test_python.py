"""Python code and configs of the pages that need no files, and the configs of
docs/own_dataset.md on data laid out as it says."""

import pytest
from documentation.blocks import runnable
from documentation.configs import CONFIGS, OWN, make_data, read_config

from biformer_mm.datasets.checks import plan, scan

# The code of the other pages needs checkpoints or pictures, see
# test_commands.py.
FAST = ('docs/backends.md', 'docs/other_networks.md')


def named(blocks):
    return [pytest.param(block, id=block.name) for block in blocks]


@pytest.mark.parametrize('block', named(x for x in runnable('python') if x.page in FAST))
def test_code_runs(block, tmp_path, monkeypatch, capsys):
    if 'timm' in block.text:
        pytest.importorskip('timm', reason='timm is not installed')
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.name, 'exec'), dict(__name__='__main__'))
    assert capsys.readouterr().out  # each prints what came of it


@pytest.mark.parametrize('block', named(CONFIGS))
def test_config_can_be_read(block, tmp_path):
    cfg = read_config(block, tmp_path)
    text = str(cfg.model) + str(cfg.get('custom_hooks'))
    assert any(name in text for name in ('BiFormer', 'BRAPlugin', 'Hook'))


@pytest.mark.parametrize('block', named(x for x in CONFIGS if x.page == OWN))
def test_own_config_fits_the_data(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_data(block, tmp_path / 'my_data')
    jobs = list(plan(read_config(block, tmp_path), ['train', 'val', 'test']))
    assert [len(job.items) for job in jobs] == [4, 2, 2]
    assert scan(jobs, 1) == []
