"""Training compiled, as a user runs it. With inductor it takes minutes."""

import json

import pytest
import torch
from tool_runner import ROOT, TRUST, run_tool

CONFIG = ROOT / 'configs' / 'biformer_demo.py'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.__version__ < (2, 6), reason='PyTorch before 2.6'),
]


def options(data, *others):
    found = ['train_cfg.val_interval=1', 'default_hooks.logger.interval=1']
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        found += [
            f'{loader}.dataset.data_root={data}',
            f'{loader}.batch_size=2',
            f'{loader}.num_workers=0',
            f'{loader}.persistent_workers=False',
        ]
    return [
        '--cfg-options',
        'randomness.deterministic=True',
        'train_cfg.max_epochs=1',
        *found,
        *others,
    ]


def losses(work_dir):
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    lines = map(json.loads, log.read_text().splitlines())
    return [line['loss'] for line in lines if 'loss' in line]


@pytest.fixture(scope='module')
def eager(tmp_path_factory, healthy):
    """Work directory of a training that is not compiled."""
    work_dir = tmp_path_factory.mktemp('eager')
    run_tool(
        'train.py', CONFIG, '--work-dir', work_dir, *options(healthy['imagenet']), cwd=work_dir
    )
    return work_dir


@pytest.mark.parametrize('arguments, others', [(['--compile'], []), ([], ['compile=True'])])
def test_losses_are_those_of_eager(eager, healthy, tmp_path, arguments, others):
    output = run_tool(
        'train.py',
        CONFIG,
        '--work-dir',
        tmp_path,
        *arguments,
        *options(healthy['imagenet'], *others),
        cwd=tmp_path,
    )
    assert losses(tmp_path) == pytest.approx(losses(eager), rel=1e-3)
    assert ('compiled one by one' in output) == bool(arguments)
    assert ('Model has been "compiled"' in output) == bool(others)


def test_test_compiles_blocks(eager, healthy, tmp_path):
    """As the config says, whether or not training did."""
    output = run_tool(
        'test.py',
        CONFIG,
        eager / 'epoch_1.pth',
        *TRUST,
        '--work-dir',
        tmp_path,
        *options(healthy['imagenet'], "compile='blocks'"),
        cwd=tmp_path,
    )
    assert 'compiled one by one' in output and 'accuracy/top1' in output
