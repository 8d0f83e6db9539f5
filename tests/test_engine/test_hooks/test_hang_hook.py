"""What HangHook does in one process; tests/faults/test_ranks.py has runs of two."""

import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from biformer_mm.engine.hooks import hang_hook
from biformer_mm.engine.hooks.hang_hook import HangHook

RUNNER = SimpleNamespace(iter=7)

# The first of two processes, whose limit is a second and whose exit comes soon.
PROCESS = """
import ctypes, time
from types import SimpleNamespace
from torch.utils.data import DataLoader
from biformer_mm.engine.hooks import hang_hook

class Data:
    def __len__(self):
        return 1
    def __getitem__(self, index):
        time.sleep(60)

def hang_here():
    {hang}

hang_hook.get_world_size = lambda: 2
hang_hook._DELAY = 0.5
runner = SimpleNamespace(iter=7)
hook = hang_hook.HangHook(timeout=2)
hook.before_run(runner)
for index in range(5):
    time.sleep(0.5)
    hook.before_train_iter(runner, batch_idx=index)
hang_here()
"""


def run_process(hang):
    return subprocess.run(
        [sys.executable, '-c', PROCESS.format(hang=hang)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=50,
    )


@pytest.fixture
def watched(monkeypatch):
    """A hook of one of two processes."""
    monkeypatch.setattr(hang_hook, 'get_world_size', lambda: 2)
    monkeypatch.setenv('PYTHONFAULTHANDLER', '')
    hook = HangHook(timeout=60)
    yield hook
    hook.after_run(RUNNER)


def test_process_that_hangs_prints_its_stack_and_ends():
    """Though it was slow before, for longer than the limit in all."""
    result = run_process('time.sleep(60)')
    assert result.returncode == 1
    assert result.stdout.startswith(
        'rank 0 makes no progress for 2 s (timeout of HangHook) since train batch 5 was loaded, '
        'after 7 iterations. Stacks of its threads:\nMainThread:\n'
    )
    assert result.stdout.count(', in hang_here') == 1


def test_worker_that_hangs_prints_its_stack():
    result = run_process('next(iter(DataLoader(Data(), num_workers=1)))')
    assert result.returncode == 1
    assert re.search(
        r'of HangHook\).*, in hang_here.*\nworker \d+ of rank 0 is aborted:\n.*in __getitem__',
        result.stdout,
        re.DOTALL,
    )


def test_spawned_workers_can_print_their_stacks(watched):
    watched.before_run(RUNNER)
    code = 'import faulthandler; print(faulthandler.is_enabled())'
    assert subprocess.check_output([sys.executable, '-c', code]) == b'True\n'


def test_process_that_holds_the_interpreter_prints_its_stack_and_ends():
    result = run_process('ctypes.PyDLL(None).sleep(60)')
    assert result.returncode == 1
    assert result.stdout.startswith('Timeout (0:00:02)!\n')
    assert ' in hang_here' in result.stdout and 'HangHook' not in result.stdout


def test_run_that_ends_is_watched_no_more():
    result = run_process('hook.after_run(runner); time.sleep(5); print("went on")')
    assert result.returncode == 0 and result.stdout == 'went on\n'


@pytest.mark.parametrize(
    'event, progress',
    [
        (lambda hook: hook.before_run(RUNNER), 'the run began'),
        (lambda hook: hook.before_train_epoch(RUNNER), 'train began, after 7 iterations'),
        (lambda hook: hook.before_train_iter(RUNNER, 4), 'train batch 5 was loaded, after 7'),
        (lambda hook: hook.after_train_iter(RUNNER, 4), 'train batch 5 was done, after 7'),
        (lambda hook: hook.after_train_epoch(RUNNER), 'train ended, after 7 iterations'),
        (lambda hook: hook.before_val_epoch(RUNNER), 'val began, after 7 iterations'),
        (lambda hook: hook.before_val_iter(RUNNER, 0), 'val batch 1 was loaded, after 7'),
        (lambda hook: hook.after_val_iter(RUNNER, 0), 'val batch 1 was done, after 7'),
        (lambda hook: hook.after_val_epoch(RUNNER), 'val ended, after 7 iterations'),
    ],
)
def test_step_is_progress(event, progress, watched, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(hang_hook, 'time', clock)
    event(watched)
    assert watched._moved == 1000.0 and watched._event.startswith(progress)


def test_nothing_is_done_in_one_process():
    threads = threading.active_count()
    hook = HangHook()
    hook.before_run(RUNNER)
    assert threading.active_count() == threads
    hook.after_run(RUNNER)


@pytest.mark.parametrize('timeout', [0, -1.0, True, 'long', float('nan')])
def test_timeout_is_checked(timeout):
    with pytest.raises(ValueError, match='timeout must be .*got'):
        HangHook(timeout=timeout)
