"""FSDP through MMEngine's FlexibleRunner, compared with DistributedDataParallel."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.utils import digit_version
from tool_runner import TRUST, run_tool

from biformer_mm.datasets import make_shapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        digit_version(torch.__version__) < digit_version('2.2'),
        reason='FSDP on CPUs needs PyTorch 2.2',
    ),
]

CONFIG = Path(__file__).with_name('sharded.py')
DDP = ['runner_type=Runner']  # which has no strategies


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    root = make_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=8, num_val=2)
    annotations = root / 'annotations' / 'instances_val.json'
    return [
        '--cfg-options',
        *(f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')),
        *(f'{split}_evaluator.ann_file={annotations}' for split in ('val', 'test')),
        'train_cfg.max_epochs=2',
    ]


@pytest.fixture(scope='module')
def train(options, tmp_path_factory):
    """Train for 2 epochs of 2 iterations; return the work directory and what was printed."""

    def train(*args, work_dir=None):
        work_dir = work_dir or tmp_path_factory.mktemp('work_dir')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('PYTHONPATH', str(CONFIG.parent))
            patch.setenv('OMP_NUM_THREADS', '1')
            return work_dir, run_tool(
                'dist_train.sh', CONFIG, 2, '--work-dir', work_dir, *args, cwd=work_dir
            )

    return lambda *extra, resume=(), **kwargs: train(*resume, *options, *extra, **kwargs)


@pytest.fixture(scope='module')
def sharded(train):
    return train()


@pytest.fixture(scope='module')
def replicated(train):
    return train(*DDP)


def resumed_from_first_epoch(train, run, *extra):
    """Continue a run's first epoch in a new work directory."""
    work_dir = run[0].with_name(f'{run[0].name}_resumed_{len(extra)}')
    work_dir.mkdir()
    shutil.copy(run[0] / 'epoch_1.pth', work_dir)
    return train(*extra, resume=['--resume', work_dir / 'epoch_1.pth'], work_dir=work_dir)


def assert_same_weights(one, other):
    """After 4 steps of about 1e-4, so that other steps would differ by more."""
    one, other = (
        torch.load(run[0] / 'epoch_2.pth', weights_only=False)['state_dict'] for run in (one, other)
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6, msg=name)


def test_training_is_that_of_ddp(sharded, replicated):
    """Clipped by the same norm, with the same rate and decay of each parameter."""
    assert_same_weights(sharded, replicated)
    norms = [float(norm) for norm in re.findall(r'grad_norm: (\S+)', sharded[1])]
    assert norms and min(norms) > 1  # else nothing was clipped


def test_each_process_holds_half_of_the_state(sharded, replicated):
    halves, wholes = (
        [int(n) for n in re.findall(r'rank \d holds (\d+) elements', run[1])]
        for run in (sharded, replicated)
    )
    assert len(halves) == len(wholes) == 2
    assert wholes[0] == wholes[1]
    assert sum(halves) == wholes[0]
    assert max(halves) < 0.51 * wholes[0]


def test_a_resumed_run_ends_as_an_undisturbed_one(train, sharded):
    resumed = resumed_from_first_epoch(train, sharded)
    assert 'resumed epoch: 1' in resumed[1]
    assert_same_weights(resumed, sharded)


def test_checkpoints_are_those_of_ddp(train, sharded, replicated):
    """Each kind of run goes on with a checkpoint of the other."""
    assert_same_weights(resumed_from_first_epoch(train, replicated), replicated)
    assert_same_weights(resumed_from_first_epoch(train, sharded, *DDP), sharded)


def test_a_loss_that_is_not_finite_ends_the_run(options, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(CONFIG.parent))
    infinite = 'model.bbox_head.loss_cls.loss_weight=1e39'
    output = run_tool('dist_train.sh', CONFIG, 2, *options, infinite, cwd=tmp_path, ok=False)
    assert output.count('the loss of iteration 1 is not finite') >= 1
    assert 'not located, as the weights are sharded' in output


def test_one_process_tests_the_checkpoint(sharded, options, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(CONFIG.parent))
    checkpoint = sharded[0] / 'epoch_2.pth'
    written = checkpoint.with_name(CONFIG.name)  # by the training
    output = run_tool('test.py', written, checkpoint, *TRUST, *options, cwd=tmp_path)
    assert 'Load checkpoint from' in output
    assert not [path for path in sharded[0].iterdir() if path.suffix == '.tmp']
