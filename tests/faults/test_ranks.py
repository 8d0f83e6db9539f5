"""A rank that hangs, stops or fails: the others end, and say why.

Two processes on the CPU, with HangHook's timeout at 10 s.
"""

import os
import re
import subprocess
import sys
import time

import pytest
from process_runner import free_port, launcher_variables
from tool_runner import ROOT

from biformer_mm.datasets import make_shapes

pytestmark = pytest.mark.faults

FOLDER = ROOT / 'tests' / 'test_distributed'
LIMIT = 180  # s for a run from its start, which take a quarter of it


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return make_shapes(
        tmp_path_factory.mktemp('data') / 'shapes',
        layout='ade20k',
        num_train=2,
        num_val=2,
        image_size=64,
    )


@pytest.fixture
def start(data_root, tmp_path):
    """Start two processes, which end with the test."""
    started = []

    def start_ranks(*args, **kwargs):
        started.append(Ranks(tmp_path, data_root, *args, **kwargs))
        return started[-1]

    yield start_ranks
    for ranks in started:
        ranks.kill()


class Ranks:
    """Two processes that write to one file.

    Args:
        folder: Folder for that file, and of the run.
        data_root: Folder of the data.
        launcher: 'pytorch' for torchrun, or 'slurm' for processes that nobody
            ends if they do not end themselves.
        trouble: As for trouble.py.
        options: Further fields of the config.
        pause: Seconds for which a rank hangs.
    """

    def __init__(self, folder, data_root, launcher, trouble, *options, pause=1000):
        self.output = folder / 'output.txt'
        arguments = [
            str(FOLDER / 'troubled.py'),
            '--work-dir',
            str(folder),
            '--cfg-options',
            f'train_dataloader.dataset.data_root={data_root}',
            f'val_dataloader.dataset.data_root={data_root}',
            *options,
        ]
        env = dict(
            os.environ,
            PYTHON=sys.executable,
            PYTHONPATH=str(FOLDER),
            OMP_NUM_THREADS='1',
            TROUBLE=trouble,
            PAUSE=str(pause),
        )
        if launcher == 'pytorch':
            arguments.insert(1, '2')
            starts = [([str(ROOT / 'tools/dist_train.sh'), *arguments], env)]
        else:
            env.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
            command = [sys.executable, str(ROOT / 'tools/train.py')]
            starts = [
                (
                    [*command, *arguments, '--launcher', launcher],
                    dict(env, **launcher_variables(launcher, rank, 2)),
                )
                for rank in range(2)
            ]
        with open(self.output, 'w') as output:
            self.processes = [
                subprocess.Popen(
                    command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT
                )
                for command, env in starts
            ]

    def wait(self):
        """Exit statuses, and what was printed by both."""
        deadline = time.monotonic() + LIMIT
        codes = [process.wait(max(1, deadline - time.monotonic())) for process in self.processes]
        return codes, self.output.read_text()

    def wait_for(self, text):
        """Wait until a text is printed."""
        deadline = time.monotonic() + LIMIT
        while text not in self.output.read_text():
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()


def in_order(output, *patterns):
    """Whether patterns match one after another."""
    return re.search('.*'.join(patterns), output, re.DOTALL)


@pytest.mark.parametrize(
    'launcher, trouble, workers',
    [
        ('slurm', 'data:1', 0),
        ('pytorch', 'worker:1', 1),
        ('pytorch', 'forward:1', 0),
        ('pytorch', 'evaluation:0', 0),
    ],
)
def test_rank_that_hangs_shows_its_stack_first(launcher, trouble, workers, start):
    codes, output = start(launcher, trouble, f'train_dataloader.num_workers={workers}').wait()
    assert all(code > 0 for code in codes), output
    rank = int(trouble[-1])
    shown = output.index(f'rank {rank} hangs: no progress for 10 s')
    before, after = output[:shown], output[shown:]
    worker = [f'worker \\d+ of rank {rank}'] if workers else []
    assert in_order(
        after,
        *worker,
        r'trouble.py", line \d+ in sleep',
        f'rank {1 - rank} ends: rank {rank} hangs since .*: see the stacks above\n',
    ), output
    for words in ('Error', 'ends:', 'Traceback'):
        assert words not in before, output
    assert f'rank {1 - rank} hangs: no' not in output


def test_rank_that_keeps_the_interpreter_shows_its_stack_first(start):
    codes, output = start('slurm', 'hold:0').wait()
    assert all(code > 0 for code in codes), output
    assert in_order(
        output,
        r'Timeout \(0:00:1',
        r'line \d+ in hold_interpreter',
        'rank 1 ends: rank 0 hangs since .* does not answer',
    ), output


@pytest.mark.parametrize(
    'rank, words',
    [
        (0, 'rank 1 ends: no progress for 10 s .* no answer from .* rank 0'),
        (1, 'rank 0 ends: rank 1 hangs since .* does not answer'),
    ],
)
def test_stopped_rank_is_named(rank, words, start):
    """The others talk through rank 0."""
    run = start('slurm', f'stop:{rank}')
    code = run.processes[1 - rank].wait(LIMIT)
    output = run.output.read_text()
    assert code == 1 and re.search(words, output), output
    assert ' hangs: no progress' not in output


def test_slow_rank_is_left_alone(start):
    """An evaluation on one rank takes nearly as long as the timeout."""
    codes, output = start(
        'slurm', 'evaluation:0', 'custom_hooks.1.timeout=20', 'train_cfg.max_epochs=2', pause=16
    ).wait()
    assert codes == [0, 0], output
    assert 'mIoU' in output and 'rank 1 ends' not in output


@pytest.mark.parametrize(
    'launcher, trouble',
    [('pytorch', 'fail:1'), ('slurm', 'fail_alone:1'), ('slurm', 'fail_alone:0')],
)
def test_traceback_of_a_rank_that_fails_is_first(launcher, trouble, start):
    """Also where the others would wait for long, as with NCCL: alone."""
    run = start(launcher, trouble, 'custom_hooks.1.timeout=1000')
    run.wait_for('ValueError: the trouble\n')
    begin = time.monotonic()
    codes, output = run.wait()
    assert all(code > 0 for code in codes), output
    assert time.monotonic() - begin < 60  # documented: 20 s
    rank = int(trouble[-1])
    told = output.index('ValueError: the trouble\n')
    assert output[:told].count('Traceback') == 1, output
    assert 'ends:' not in output[:told]
    assert (f'rank {1 - rank} ends: rank {rank} failed: ValueError: the trouble, in ') in output[
        told:
    ], output
