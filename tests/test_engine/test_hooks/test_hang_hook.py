"""Who hangs, and what a process does that watches."""

import json
import subprocess
import sys
import threading
import time
from math import inf
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from biformer_mm.engine.hooks import hang_hook as hang
from biformer_mm.engine.hooks.hang_hook import HangHook
from biformer_mm.engine.runner import watch as watching
from biformer_mm.engine.runner.board import Board, State, Verdict, find_hung
from biformer_mm.engine.runner.watch import Watch
from biformer_mm.utils.errors import UsageError

LONG = 100.0  # s


def state(*place, idle=LONG, waits=False):
    return State(place, 'an event', waits, idle)


@pytest.mark.parametrize(
    'states, hung',
    [
        # One is behind, whatever the others do.
        ([state(1, 9), state(1, 8)], [1]),
        ([state(1, 9, idle=0.0), state(1, 8)], [1]),
        ([state(1, 9), state(1, 8, waits=True)], [1]),
        # It is slow, and others wait for it for as long as that takes.
        ([state(1, 9), state(1, 8, idle=1.0)], []),
        ([state(1, 9, waits=True), state(1, 9, idle=1.0)], []),
        # All are as far: those that do not wait, if there are such.
        ([state(1, 9, waits=True), state(1, 9)], [1]),
        ([state(1, 9), state(1, 9)], [0, 1]),
        ([state(1, 9, waits=True), state(1, 9, waits=True)], [0, 1]),
        # Fewer batches in an earlier phase are no lag.
        ([state(3, 0), state(2, 99)], [1]),
        # Who is done is not behind.
        ([state(inf, 0), state(5, 1)], [1]),
    ],
)
def test_find_hung(states, hung):
    assert find_hung(dict(enumerate(states)), timeout=10) == hung


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when told."""
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(watching.time, 'monotonic', lambda: now.value)
    return now


class Process:
    """One of two that train, with its look at what both tell."""

    def __init__(self, rank, store):
        self.watch = Watch(rank, 2, timeout=10.0)
        self.board = Board(store, rank, 2)
        self.advance = self.watch.advance

    def exchange(self):
        self.watch.exchange(self.board)


def verdict(store):
    return json.loads(store.compare_set('verdict', '', '') or 'null')


def test_processes_find_out_who_is_behind(clock):
    store = HashStore()
    processes = [Process(0, store), Process(1, store)]
    processes[0].advance('a loss was computed')
    for second in range(14):
        assert second > 10 or not verdict(store)
        for process in processes:
            process.exchange()
        clock.value += 1
    assert verdict(store) == dict(ranks={'1': 'the run began'}, failed=False)
    for process in processes:
        process.exchange()
        assert process.watch.verdict == Verdict({1: 'the run began'}, False)


def test_slow_processes_go_on(clock):
    store = HashStore()
    processes = [Process(0, store), Process(1, store)]
    processes[0].advance('a loss was computed')
    for second in range(60):
        if second % 9 == 0:
            processes[1].advance('a batch was loaded')
            processes[1].watch.place = (0, 0)  # and yet behind
        for process in processes:
            process.exchange()
        clock.value += 1
    assert not verdict(store)


def test_process_that_tells_no_more_is_found(clock):
    """Stopped, or gone with its machine."""
    store = HashStore()
    stopped, other = Process(1, store), Process(0, store)
    stopped.exchange()
    for _ in range(30):
        other.advance('a loss was computed')  # slowly, as in an evaluation
        other.exchange()
        clock.value += 1
    assert not verdict(store)
    for _ in range(14):
        other.exchange()
        clock.value += 1
    assert list(verdict(store)['ranks']) == ['1']


def test_process_that_never_told_is_found(clock):
    store = HashStore()
    process = Process(0, store)
    for _ in range(14):
        process.exchange()
        clock.value += 1
    assert verdict(store)['ranks'] == {'1': 'its start'}


@pytest.mark.parametrize(
    'module, waits',
    [
        ('torch.distributed.distributed_c10d', True),
        ('mmengine.dist.dist', True),
        ('mmengine.runner.loops', False),
    ],
)
def test_waiting_is_seen_in_the_innermost_call(module, waits):
    names, lock = dict(__name__=module), threading.Lock()
    exec('def wait(lock): lock.acquire()', names)
    lock.acquire()
    thread = threading.Thread(target=names['wait'], args=(lock,))
    thread.start()
    try:
        while watching._modules(thread.ident)[0] != module:
            time.sleep(0.01)
        assert watching._waits(thread.ident) == waits
    finally:
        lock.release()


@pytest.fixture
def hook(monkeypatch):
    """A hook of the first of two processes, with a store of its own."""
    store = HashStore()
    monkeypatch.setenv('PYTHONFAULTHANDLER', '')
    monkeypatch.setattr(hang, 'get_world_size', lambda: 2)
    monkeypatch.setattr(hang, 'get_rank', lambda: 0)
    monkeypatch.setattr(hang, '_connect', lambda: store)
    hook = HangHook(timeout=60)
    hook.store = store
    yield hook
    hook.after_run(None)


def make_runner(run=lambda: 'trained'):
    updates = []
    return SimpleNamespace(
        iter=7,
        _train_loop=SimpleNamespace(run=run),
        optim_wrapper=SimpleNamespace(update_params=updates.append),
        updates=updates,
    )


def test_hook_counts_what_all_processes_do(hook):
    runner = make_runner()
    hook.before_run(runner)
    hook.before_train(runner)
    watch = hook._watch
    hook.before_train_epoch(runner)
    assert watch.place == (1, 0)
    hook.before_train_iter(runner, 4)
    assert watch.event == 'train batch 5 was loaded, after 7 iterations'
    runner.optim_wrapper.update_params('loss')
    assert watch.event == 'a loss was computed, after 7 iterations'
    hook.after_train_iter(runner, 4)
    assert watch.place == (1, 3) and runner.updates == ['loss']
    hook.before_val_epoch(runner)
    assert watch.place == (2, 0)


def test_spawned_workers_can_show_their_stacks(hook):
    hook.before_run(make_runner())
    code = 'import faulthandler; print(faulthandler.is_enabled())'
    command = [sys.executable, '-c', code]
    assert subprocess.check_output(command) == b'True\n'


def end_of(hook, run):
    """What the others are told when a training ends so."""
    runner = make_runner(run)
    hook.before_run(runner)
    watch = hook._watch
    try:
        runner._train_loop.run()
    except BaseException as error:
        raised = error
    else:
        raised = None
        hook.after_run(runner)
    assert not watch._talker.is_alive() and not watch._guard.is_alive()
    assert json.loads(hook.store.get('state_0'))
    return raised, verdict(hook.store)


def test_others_learn_of_an_error(hook):

    def run():
        raise ValueError('too\nbad')

    raised, told = end_of(hook, run)
    assert isinstance(raised, ValueError) and told['failed']
    assert told['ranks']['0'].startswith('ValueError: too bad')


def test_others_learn_of_what_the_user_can_mend(hook):

    def run():
        raise UsageError('no loss; mend it')

    raised, told = end_of(hook, run)
    assert told == dict(ranks={'0': 'no loss; mend it'}, failed=True)


@pytest.mark.parametrize('run', [lambda: 1, sys.exit, lambda: sys.exit(0)])
def test_others_go_on_after_a_good_end(hook, run):
    raised, told = end_of(hook, run)
    assert not told
    state = json.loads(hook.store.get('state_0'))
    assert state['place'] == [inf, 0]


def test_error_names_the_other_that_failed_before(hook, capfd):
    hook.store.set('verdict', json.dumps(dict(ranks={'1': 'ValueError: a'}, failed=True)))

    def run():
        raise RuntimeError('Connection closed by peer')

    raised, _ = end_of(hook, run)
    assert str(raised) == 'Connection closed by peer'
    assert capfd.readouterr().err == ('rank 0 ends: rank 1 failed: ValueError: a\n')


def test_nothing_is_done_in_one_process(monkeypatch):
    threads = threading.active_count()
    hook, runner = HangHook(), make_runner()
    run, update = runner._train_loop.run, runner.optim_wrapper.update_params
    hook.before_run(runner)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert runner._train_loop.run is run
    assert runner.optim_wrapper.update_params is update
    assert threading.active_count() == threads
    hook.after_run(runner)


@pytest.mark.parametrize('timeout', [0, -1.0, True, 'long', float('nan')])
def test_timeout_is_checked(timeout):
    with pytest.raises(ValueError, match='timeout must be .*got'):
        HangHook(timeout=timeout)


# The end of a process is a process's test: rank 1 is made up.
PROCESS = """
import sys, time
from torch.distributed import HashStore
from biformer_mm.engine.board import Board
from biformer_mm.engine.watch import Watch
store = HashStore()
watch = Watch(0, 2, timeout=1.)
other = Watch(1, 2, timeout=1.)
def connect():
    {connect}
{before}
watch.start(connect)
def hang_here():
    time.sleep(60)
{after}
hang_here()
"""


def run_process(connect='return store', before='', after=''):
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, '-c', PROCESS.format(connect=connect, before=before, after=after)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert time.monotonic() - start < 50 and result.returncode == 1
    return result.stdout


def test_process_that_hangs_shows_it_and_ends():
    output = run_process(before='other.place = (9, 0); other.exchange(Board(store, 1, 2))')
    assert 'rank 0 hangs: no progress for 1 s' in output
    assert ' in hang_here' in output


def test_process_ends_when_another_hangs():
    output = run_process(
        before='other.exchange(Board(store, 1, 2))', after='watch.advance("something")'
    )
    assert output.startswith(
        'rank 0 ends: rank 1 hangs since the run began, or later, and does not answer'
    )
    assert ' in hang_here' not in output


def test_process_ends_when_the_store_goes_with_the_one_that_hangs():
    output = run_process(
        before="""
class Going(HashStore):
    def compare_set(self, key, expected, value):
        if key == 'shown_1':
            raise RuntimeError('gone')
        return super().compare_set(key, expected, value)
store = Going()
other.exchange(Board(store, 1, 2))""",
        after='watch.advance("something")',
    )
    assert output.startswith('rank 0 ends: rank 1 hangs since the run began')


def test_process_ends_when_nobody_answers():
    output = run_process(connect='time.sleep(60)')
    assert 'rank 0 ends: no progress for 1 s since the run began' in output
    assert ' in hang_here' in output


def test_process_that_keeps_the_interpreter_ends():
    output = run_process(
        after="""
import ctypes
def keep():
    ctypes.PyDLL(None).sleep(60)
keep()"""
    )
    assert output.startswith('Timeout (0:00:01') and ' in keep' in output
