"""Runs end when told to, and go on in the middle of an epoch."""

import errno
import multiprocessing
import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from multiprocessing import forkserver, get_all_start_methods

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from biformer_mm.engine.hooks import preemption_hook
from biformer_mm.engine.hooks.preemption_hook import PreemptionHook, protect_workers

BATCHES, SIZE = 6, 2


@pytest.fixture(autouse=True)
def handlers():
    """Those of the tests' process, put back in the end."""
    own = {number: signal.getsignal(number) for number in preemption_hook.SIGNALS}
    yield own
    for number, handler in own.items():
        signal.signal(number, handler)


class Numbers(Dataset):
    def __len__(self):
        return BATCHES * SIZE

    def __getitem__(self, i):
        return dict(inputs=torch.full((4,), float(i)))


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(torch.stack(inputs)).square().mean())


class Watch(Hook):
    """Records what a run does, and sends it a signal after an iteration."""

    priority = 'LOW'

    def __init__(self, number=None, at=None):
        self.number, self.at = number, at
        self.seen, self.indices, self.rates = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs=None):
        self.seen += [(runner.epoch, int(x[0])) for x in data_batch['inputs']]
        self.indices.append(batch_idx)
        self.handler = signal.getsignal(signal.SIGTERM)
        self.rates += runner.optim_wrapper.get_lr()['lr']
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), self.number)


def build(work_dir, watch, loop=None, workers=0, batch=SIZE, sampler=DefaultSampler, **kwargs):
    arguments = dict(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Numbers(),
            sampler=dict(type=sampler, shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
            batch_size=batch,
            num_workers=workers,
        ),
        train_cfg=loop or dict(type='ResumableEpochLoop', max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=9),
            dict(type='StepLR', step_size=1, by_epoch=True),
        ],
        default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook', interval=1)),
        custom_hooks=[watch, PreemptionHook()],
        randomness=dict(seed=3),
        default_scope='mmengine',
        experiment_name=uuid.uuid4().hex,  # a message hub of its own
        log_level='ERROR',
    )
    return Runner(**{**arguments, **kwargs})


def end(runner):
    with pytest.raises(SystemExit) as error:
        runner.train()
    assert error.value.code == 0


def last_checkpoint(work_dir):
    path = (work_dir / 'last_checkpoint').read_text()
    return os.path.basename(path), torch.load(path, weights_only=False)


@pytest.mark.parametrize('number', preemption_hook.SIGNALS)
@pytest.mark.parametrize(
    'at, workers', [(BATCHES + 2, 0), (BATCHES + 2, 1), (2 * BATCHES, 0), (1, 0)]
)
def test_epochs_go_on_in_the_middle(number, at, workers, tmp_path):
    """The end of an epoch, too, whose hooks have not run."""
    whole = Watch()
    expected = build(tmp_path / 'whole', whole)
    expected.train()
    first, second = Watch(number, at), Watch()
    end(build(tmp_path / 'parts', first, workers=workers))
    name, saved = last_checkpoint(tmp_path / 'parts')
    epoch = (at - 1) // BATCHES
    assert name == f'epoch_{epoch}_iter_{at}.pth'
    assert (saved['meta']['epoch'], saved['meta']['iter']) == (epoch, at)
    runner = build(tmp_path / 'parts', second, workers=workers, resume=True)
    runner.train()
    # Each batch once, and the same; the same rates, counters and weights.
    assert first.seen + second.seen == whole.seen
    assert first.indices + second.indices == whole.indices
    assert first.rates + second.rates == whole.rates
    assert (runner.epoch, runner.iter) == (3, 3 * BATCHES)
    assert torch.equal(runner.model.layer.weight, expected.model.layer.weight)
    last, expected = (last_checkpoint(tmp_path / x)[1] for x in ('parts', 'whole'))
    assert last['meta']['iter'] == expected['meta']['iter']
    assert last['param_schedulers'] == expected['param_schedulers']


def test_with_other_batches_the_same_share_of_the_epoch_is_left(tmp_path):
    first, second = Watch(signal.SIGTERM, BATCHES + 2), Watch()
    end(build(tmp_path, first))
    build(tmp_path, second, batch=1, resume=True).train()
    assert second.indices[0] == 4
    assert set(Counter(first.seen + second.seen).values()) == {1}


def test_iterations_go_on(tmp_path):
    kwargs = dict(
        sampler=InfiniteSampler,
        loop=dict(type='ResumableIterLoop', max_iters=10),
        param_scheduler=[dict(type='LinearLR', by_epoch=False, end=9)],
        default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook', by_epoch=False, interval=5)),
    )
    whole, first, second = Watch(), Watch(signal.SIGUSR1, 3), Watch()
    build(tmp_path / 'whole', whole, **kwargs).train()
    end(build(tmp_path, first, **kwargs))
    assert last_checkpoint(tmp_path)[0] == 'iter_3.pth'
    runner = build(tmp_path, second, resume=True, **kwargs)
    runner.train()
    assert first.seen + second.seen == whole.seen
    assert first.rates + second.rates == whole.rates
    assert last_checkpoint(tmp_path)[0] == 'iter_10.pth'


def test_a_run_in_its_last_iteration_is_finished(tmp_path):
    build(tmp_path, Watch(signal.SIGTERM, 3 * BATCHES)).train()
    assert last_checkpoint(tmp_path)[0] == 'epoch_3.pth'


def test_accumulated_gradients_are_not_lost(tmp_path):
    optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=3)
    end(build(tmp_path, Watch(signal.SIGTERM, 4), optim_wrapper=optim_wrapper))
    assert last_checkpoint(tmp_path)[0] == 'epoch_0_iter_6.pth'


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(loop=dict(type='EpochBasedTrainLoop', max_epochs=3)),
        dict(default_hooks=dict(checkpoint=None)),
    ],
)
def test_what_cannot_be_resumed_is_not_saved(kwargs, tmp_path):
    runner = build(tmp_path, Watch(signal.SIGTERM, BATCHES + 2), **kwargs)
    end(runner)
    whole = ['epoch_1.pth'] if 'loop' in kwargs else []
    assert sorted(x.name for x in tmp_path.glob('*.pth')) == whole


def test_the_handlers_are_put_back(handlers, tmp_path):
    watch = Watch()
    build(tmp_path, watch).train()
    assert {x: signal.getsignal(x) for x in preemption_hook.SIGNALS} == handlers
    assert watch.handler not in handlers.values()


@pytest.mark.skipif('fork' not in get_all_start_methods(), reason='needs fork')
@pytest.mark.parametrize('number', preemption_hook.SIGNALS)
def test_forked_processes_end_as_without_the_hook(number):
    """An evaluator's pool ends its processes by SIGTERM, and waits."""
    hook = PreemptionHook()
    hook.before_train(None)
    ready, started = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context('fork').Process(
        target=lambda: (started.send(True), time.sleep(60))
    )
    process.start()
    ready.recv()
    os.kill(process.pid, number)
    process.join(20)
    ended_by = process.exitcode
    process.kill()
    hook.after_train(None)
    assert ended_by == -number and hook._received is None


def test_a_run_that_ends_is_not_killed_by_another_signal(tmp_path):
    end(build(tmp_path, Watch(signal.SIGTERM, 2)))
    for number in preemption_hook.SIGNALS:
        os.kill(os.getpid(), number)


def test_what_had_no_room_is_not_said_to_be_saved(tmp_path, monkeypatch):
    runner = build(
        tmp_path,
        Watch(signal.SIGTERM, BATCHES + 2),
        default_hooks=dict(
            checkpoint=dict(type='WholeCheckpointHook', interval=1, on_failure='go_on')
        ),
    )
    lines = []
    monkeypatch.setattr(runner.logger, 'info', lines.append)
    save, full = Runner.save_checkpoint, OSError(errno.ENOSPC, 'No space')

    def save_epochs(self, folder, name, *args, **kwargs):
        if '_iter_' in name:
            raise full
        save(self, folder, name, *args, **kwargs)

    monkeypatch.setattr(Runner, 'save_checkpoint', save_epochs)
    end(runner)
    assert lines[-1] == (
        'SIGTERM ends the run: nothing is saved since the last checkpoint; '
        'the same command with --resume goes on.'
    )
    assert last_checkpoint(tmp_path)[0] == 'epoch_1.pth'


def test_all_processes_end_when_one_is_told(monkeypatch):
    """Another's flag counts."""
    hook = PreemptionHook()
    monkeypatch.setattr(preemption_hook, 'is_distributed', lambda: True)
    monkeypatch.setattr(preemption_hook, 'all_reduce', lambda x, op: x)
    assert not hook._any_received()
    monkeypatch.setattr(preemption_hook, 'all_reduce', lambda x, op: x.fill_(1))
    assert hook._any_received()


@pytest.mark.slow
@pytest.mark.parametrize('method', get_all_start_methods())
def test_workers_last_until_their_parent_ends_them(method, monkeypatch):
    # A thread of NumPy's, which starts before the worker is initialised.
    monkeypatch.setenv('OPENBLAS_NUM_THREADS', '2')
    forkserver._forkserver._stop()  # another test may have started it
    loader = torch.utils.data.DataLoader(
        range(12), batch_size=2, num_workers=1, worker_init_fn=print, multiprocessing_context=method
    )
    protect_workers(loader)
    batches = iter(loader)
    seen = [next(batches)]
    worker = batches._workers[0]
    pids = [worker.pid]
    if method == 'forkserver':
        pids += [forkserver._forkserver._forkserver_pid]
    for number in preemption_hook.SIGNALS:  # of another process
        subprocess.run(['kill', f'-{number}', *map(str, pids)], check=True)
    seen += batches
    assert torch.cat(seen).tolist() == list(range(12))
    assert worker.exitcode in (None, 0)
    batches = iter(loader)
    next(batches)
    worker = batches._workers[0]
    worker.terminate()
    worker.join(4)
    assert worker.exitcode == 0


def test_workers_end_with_their_loader():
    """As soon as it is let go, not when garbage is collected."""
    loader = torch.utils.data.DataLoader(range(4), num_workers=1, persistent_workers=True)
    protect_workers(loader)
    worker = iter(loader)._workers[0]
    del loader
    worker.join(10)
    assert worker.exitcode == 0
