"""Runs that are killed, told to end, or out of disk space, resumed to the end.

All is compared with one run that nothing disturbed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from process_runner import start_two
from tool_runner import ROOT, TRUST

from biformer_mm.datasets import make_shapes
from biformer_mm.engine.hooks.whole_checkpoint_hook import find_whole_checkpoint, is_whole

pytestmark = pytest.mark.faults

KILLS = 20
EPOCHS, BATCHES = 3, 12
CONFIG = f"""
_base_ = [{str(ROOT / 'configs/biformer_demo.py')!r}]
train_cfg = dict(max_epochs={EPOCHS}, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=9),
    dict(type='CosineAnnealingLR', T_max={EPOCHS}, begin=1, by_epoch=True)]
train_dataloader = dict(batch_size=4)
val_dataloader = dict(batch_size=4)
default_hooks = dict(logger=dict(interval=1))
custom_hooks = [dict(type='EMAHook')]
"""
MAX_ITERS = 30
ITERATIONS = f"""
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters={MAX_ITERS},
    val_interval=10)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=10),
    logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max={MAX_ITERS}, by_epoch=False)]
"""
LOGGED = ('loss', 'lr', 'grad_norm')


class Training:
    """Runs of tools/train.py in one work directory, one after another."""

    def __init__(self, folder, work_dir, config='epochs.py'):
        self.folder, self.work_dir = folder, Path(work_dir)
        self.config, self.startup = config, 10
        self.earlier = set()  # logs of the runs before this one

    def start(self, *args):
        """Start, or resume if there is a checkpoint."""
        self.earlier = set(self.logs())
        resume = ['--resume', *TRUST] if self.whole() else []
        with open(self.folder / 'output.txt', 'w') as output:
            return subprocess.Popen(
                [
                    sys.executable,
                    str(ROOT / 'tools/train.py'),
                    self.config,
                    '--work-dir',
                    str(self.work_dir),
                    *resume,
                    *args,
                ],
                cwd=self.folder,
                env=dict(os.environ, OMP_NUM_THREADS='1'),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # a group, with the loaders' workers

    def run(self, *args, status=0):
        self.expect(self.start(*args), status)

    def expect(self, process, status):
        assert process.wait(300) == status, self.output()[-5000:]

    def output(self):
        return (self.folder / 'output.txt').read_text()

    def whole(self):
        """Name of the last whole checkpoint, or None."""
        path = find_whole_checkpoint(str(self.work_dir))
        return path and Path(path).name

    def names(self, pattern):
        return sorted(path.name for path in self.work_dir.glob(pattern))

    def load(self, name):
        return torch.load(self.work_dir / name, weights_only=False)

    def logs(self):
        return self.work_dir.glob('*/vis_data/scalars.json')

    def scalars(self, logs=None):
        """What was logged of each iteration, by every run that did it."""
        steps = {}
        for path in self.logs() if logs is None else logs:
            for line in path.read_text().splitlines(keepends=True):
                entry = json.loads(line) if line.endswith('\n') else {}
                if 'loss' in entry:
                    steps.setdefault(entry['step'], []).append([entry[key] for key in LOGGED])
        return steps

    def step(self):
        """The last iteration that the run under way, or the last, logged."""
        return max(self.scalars(set(self.logs()) - self.earlier), default=0)


def wait(process, condition, interval=0.01):
    """Wait for a condition; return whether it came before the run's end."""
    deadline = time.monotonic() + 120
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def assert_equal(a, b, place):
    """The same tensors, bit for bit, and other values."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_equal(a[key], b[key], f'{place}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for i, pair in enumerate(zip(a, b)):
            assert_equal(*pair, f'{place}.{i}')
    else:
        assert a == b, place


def assert_same_end(training, whole):
    """All that a checkpoint restores, and all that was logged, is the same."""
    name = whole.whole()
    assert training.whole() == name
    end, expected = training.load(name), whole.load(name)
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_equal(end[part], expected[part], part)
    for counter in ('epoch', 'iter'):
        assert end['meta'][counter] == expected['meta'][counter], counter
    expected = whole.scalars()
    for step, values in training.scalars().items():
        for logged in values:
            assert logged == expected[step][0], step
    assert not training.names('*.tmp')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('interruptions')
    make_shapes(folder / 'data/shapes/imagenet', 'imagenet', 4 * BATCHES, 32, image_size=64)
    (folder / 'epochs.py').write_text(CONFIG)
    (folder / 'iterations.py').write_text("_base_ = './epochs.py'\n" + ITERATIONS)
    return folder


@pytest.fixture(scope='module')
def whole(folder):
    """A run that nothing disturbs."""
    training = Training(folder, folder / 'whole')
    begin = time.monotonic()
    process = training.start()
    assert wait(process, training.step), training.output()
    training.startup = time.monotonic() - begin
    training.expect(process, 0)
    assert set(training.scalars()) == set(range(1, EPOCHS * BATCHES + 1))
    return training


@pytest.fixture(scope='module')
def whole_iterations(folder):
    """The same, counted in iterations, as mmseg's recipes are."""
    training = Training(folder, folder / 'whole_iterations', 'iterations.py')
    training.run()
    assert training.whole() == f'iter_{MAX_ITERS}.pth'
    return training


def reach(phase, training, process, chance):
    """Wait for a random moment of a phase; return whether it came.

    Args:
        chance: In [0, 1).
    """
    saved = training.names('epoch_*.pth')
    if phase == 'start-up':
        time.sleep(chance * training.startup)
        return process.poll() is None
    if phase == 'step':
        step = BATCHES * len(saved) + 1 + int(chance * (BATCHES - 2))
        return wait(process, lambda: training.step() >= step)
    if phase == 'checkpoint':
        return wait(
            process, lambda: training.names('*.tmp') or training.names('epoch_*.pth') != saved, 0
        )
    came = wait(process, lambda: training.names('epoch_*.pth') != saved)
    time.sleep(chance * 0.25)
    return came


def observe(training, before):
    """The phase in which the run was killed, from what it left.

    Args:
        before: The checkpoints, and parts of them, when it was started.
    """
    new = set(training.names('*.pth*')) - set(before)
    if any(name.endswith('.tmp') for name in new):
        return 'checkpoint'
    if not training.step():
        return 'start-up'
    return 'evaluation' if new and training.step() % BATCHES == 0 else 'step'


def test_killed_runs_are_resumed_bit_for_bit(folder, whole, tmp_path, capsys):
    """Runs are killed again and again, then finished."""
    chances = random.Random(0)
    kills, lost, runs = [], [], 0
    while len(kills) < KILLS:
        runs += 1
        training = Training(folder, tmp_path / f'run_{runs}')
        training.startup = whole.startup
        phases = []  # an evaluation is where an epoch is left behind
        for _ in range(EPOCHS):
            phases += chances.sample(['start-up', 'step', 'checkpoint'], 3)
            phases.append('evaluation')
        for phase in phases[: min(KILLS // 2, KILLS - len(kills))]:
            before = training.names('*.pth*')
            process = training.start()
            if not reach(phase, training, process, chances.random()):
                training.expect(process, 0)  # it came to its end
                break
            process.kill()
            process.wait()
            kills.append(observe(training, before))
            checkpoints = training.names('epoch_*.pth')
            for name in checkpoints:
                assert is_whole(str(training.work_dir / name)), name
                training.load(name)
            assert training.whole() == (checkpoints or [None])[-1]
            done = BATCHES * len(checkpoints)
            lost.append(max(0, training.step() - done))
        training.run()
        assert_same_end(training, whole)
        assert set(training.scalars()) == set(whole.scalars())
    with capsys.disabled():
        print(
            f'\n{len(kills)} kills in {runs} runs: {dict(Counter(kills))}; '
            f'iterations lost by each, of {BATCHES} in an epoch: {lost}'
        )
    assert len(set(kills)) == 4 and max(lost) <= BATCHES


def end_by_signal(training, number, step, to_group):
    """Send a signal after a step, to the workers too or not."""
    process = training.start()
    assert wait(process, lambda: training.step() >= step), training.output()
    (os.killpg if to_group else os.kill)(process.pid, number)
    training.expect(process, 0)
    return training.whole()


@pytest.mark.parametrize('number, to_group', [(signal.SIGTERM, True), (signal.SIGUSR1, False)])
def test_a_signal_ends_within_an_epoch_and_it_is_resumed(number, to_group, folder, whole, tmp_path):
    training = Training(folder, tmp_path)
    name = end_by_signal(training, number, BATCHES + 3, to_group)
    done = training.step()
    assert BATCHES + 3 <= done < 2 * BATCHES
    assert name == f'epoch_1_iter_{done}.pth'
    assert f'{number.name} ends the run: iteration {done} is saved to ' in (training.output())
    training.run()
    assert_same_end(training, whole)
    assert all(len(values) == 1 for values in training.scalars().values())


def test_a_signal_ends_iterations_and_they_are_resumed(folder, whole_iterations, tmp_path):
    training = Training(folder, tmp_path, 'iterations.py')
    name = end_by_signal(training, signal.SIGUSR1, 13, True)
    assert name == f'iter_{training.step()}.pth'
    training.run()
    assert_same_end(training, whole_iterations)
    assert all(len(values) == 1 for values in training.scalars().values())


def test_killed_iterations_are_resumed_bit_for_bit(folder, whole_iterations, tmp_path):
    training = Training(folder, tmp_path, 'iterations.py')
    for step in sorted(random.Random(1).sample(range(1, MAX_ITERS - 1), 3)):
        process = training.start()
        assert wait(process, lambda: training.step() >= step)
        process.kill()
        process.wait()
    training.run()
    assert_same_end(training, whole_iterations)


def test_a_signal_to_one_process_ends_all(folder, tmp_path):
    training = Training(folder, tmp_path)
    processes = start_two(
        'pytorch',
        'train.py',
        'epochs.py',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'train_cfg.max_epochs=500',
        'train_cfg.val_interval=500',
        'default_hooks.checkpoint.interval=500',
        cwd=folder,
        OMP_NUM_THREADS='1',
    )
    try:
        assert wait(processes[0], lambda: training.step() >= 2)
        processes[1].send_signal(signal.SIGUSR1)
        output = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], output
    assert 'Another process ends the run: iteration' in output[0]
    assert training.whole().endswith(f'_iter_{training.step()}.pth')


@pytest.fixture
def small_disk(whole, tmp_path):
    """A disk for one checkpoint, and a function that makes it large."""
    size = os.path.getsize(whole.work_dir / 'epoch_1.pth')

    def mount(checkpoints, *options):
        options = ','.join((*options, f'size={int(checkpoints * size)}'))
        return subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )

    result = mount(1.5)
    if result.returncode:
        pytest.skip(f'mounting a tmpfs is refused: {result.stderr.strip()}')
    yield tmp_path, lambda: mount(9, 'remount').check_returncode()
    subprocess.run(['umount', str(tmp_path)], check=True)


@pytest.mark.parametrize('on_failure', ['stop', 'go_on'])
def test_a_full_disk_costs_no_checkpoint(on_failure, folder, whole, small_disk):
    work_dir, enlarge = small_disk
    training = Training(folder, work_dir)
    training.run(
        '--cfg-options',
        f'default_hooks.checkpoint.on_failure={on_failure}',
        status=1 if on_failure == 'stop' else 0,
    )
    output = training.output()
    for epoch in range(2, EPOCHS + 1):
        told = (
            f'the checkpoint of step {epoch} cannot be written to '
            f'{work_dir} (No space left on device); the last whole one is '
            f'{work_dir}/epoch_1.pth'
        )
        assert (told in output) == (epoch == 2 or on_failure == 'go_on')
    assert 'Traceback' not in output
    assert training.names('*.pth*') == ['epoch_1.pth']
    assert (work_dir / 'last_checkpoint').read_text() == (f'{work_dir}/epoch_1.pth')
    enlarge()
    training.run()
    assert_same_end(training, whole)


def test_a_disk_without_room_for_the_log_ends_the_run(folder, whole, small_disk):
    work_dir, enlarge = small_disk
    training = Training(folder, work_dir)
    process = training.start()
    assert wait(process, training.step), training.output()
    filler = work_dir / 'filler'
    with pytest.raises(OSError), open(filler, 'wb', buffering=0) as file:
        while True:
            assert file.write(bytes(512))
    training.expect(process, 1)
    output = training.output()
    assert '(No space left on device); the last whole' in output
    assert output.rstrip().endswith('free space and go on with --resume')
    assert 'Traceback' not in output
    filler.unlink()
    enlarge()
    training.run()
    assert_same_end(training, whole)
