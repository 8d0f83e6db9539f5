"""A rank that hangs, stops or fails: its stack is printed, and all end.

Two processes on the CPU, with HangHook's timeout at 10 s.
"""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

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
        self.folder, self.output = folder, folder / 'output.txt'
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
        """Exit statuses, and what was printed by both; no process is left."""
        deadline = time.monotonic() + LIMIT
        codes = [process.wait(max(1, deadline - time.monotonic())) for process in self.processes]
        deadline = time.monotonic() + 10  # a worker notices the end of its rank within 2 s
        while self.left():
            assert time.monotonic() < deadline, self.left()
            time.sleep(0.1)
        return codes, self.output.read_text()

    def left(self):
        """Command lines, with the folder's name, of processes that run."""
        lines = []
        for path in Path('/proc').glob('[0-9]*/cmdline'):
            with suppress(OSError):  # it has ended
                lines.append(path.read_bytes().replace(b'\0', b' ').decode())
        return [line for line in lines if f'--work-dir {self.folder} ' in line]

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


STACK = r'rank {} makes no progress for 10 s .*trouble.py", line \d+, in sleep\n'


@pytest.mark.parametrize(
    'launcher, trouble',
    [('slurm', 'data:1'), ('pytorch', 'forward:1'), ('pytorch', 'evaluation:0')],
)
def test_stack_of_a_rank_that_hangs_is_printed(launcher, trouble, start):
    codes, output = start(launcher, trouble).wait()
    assert all(code > 0 for code in codes), output
    assert re.search(STACK.format(trouble[-1]), output, re.DOTALL), output
    assert output.count(', in sleep\n') == 1, output  # the other one waits elsewhere


def test_stack_of_a_worker_that_hangs_is_printed(start):
    codes, output = start('pytorch', 'worker:1', 'train_dataloader.num_workers=1').wait()
    assert codes == [1], output
    worker = r'\nworker \d+ of rank 1 is aborted:\n.*trouble.py", line \d+ in sleep\n'
    assert re.search(worker, output, re.DOTALL), output


def test_rank_that_holds_the_interpreter_prints_its_stack(start):
    codes, output = start('slurm', 'hold:0').wait()
    assert all(code > 0 for code in codes), output
    assert re.search(r'Timeout \(0:00:10\)!\n.* in hold_interpreter\n', output, re.DOTALL), output


@pytest.mark.parametrize('rank', [0, 1])
def test_other_ranks_end_when_one_is_stopped(rank, start):
    run = start('slurm', f'stop:{rank}')
    code = run.processes[1 - rank].wait(LIMIT)
    output = run.output.read_text()
    assert code == 1 and f'rank {1 - rank} makes no progress for 10 s' in output, output


def test_launcher_kills_a_rank_that_is_stopped(start):
    codes, output = start('pytorch', 'stop:1').wait()
    assert codes == [1] and 'rank 0 makes no progress for 10 s' in output, output


def test_slow_rank_is_left_alone(start):
    """An evaluation on one rank takes nearly as long as the timeout."""
    codes, output = start(
        'slurm', 'evaluation:0', 'custom_hooks.1.timeout=20', 'train_cfg.max_epochs=2', pause=16
    ).wait()
    assert codes == [0, 0], output
    assert 'mIoU' in output and 'makes no progress' not in output


def test_traceback_of_a_rank_that_fails_is_first(start):
    run = start('pytorch', 'fail:1', 'custom_hooks.1.timeout=1000')
    run.wait_for('ValueError: the trouble\n')
    begin = time.monotonic()
    codes, output = run.wait()
    assert codes == [1], output
    assert time.monotonic() - begin < 60  # documented: 40 s
    told = output.index('ValueError: the trouble\n')
    assert output[:told].count('Traceback') == 1, output


@pytest.mark.parametrize('rank', [0, 1])
def test_rank_ends_by_itself_when_the_other_has_failed(rank, start):
    """Where no launcher ends it, and it does not notice, as with NCCL."""
    codes, output = start('slurm', f'fail_alone:{rank}').wait()
    assert all(code > 0 for code in codes), output
    assert in_order(
        output, 'ValueError: the trouble\n', f'rank {1 - rank} makes no progress for 10 s'
    ), output
