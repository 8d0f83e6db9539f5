"""Stop a run on request and leave it resumable."""

import multiprocessing
import os
import os.path as osp
import signal
import sys
import threading
import weakref
from functools import partial
from multiprocessing import parent_process, resource_tracker
from typing import Any, Callable, Iterator, Optional

import torch
from mmengine.dist import all_reduce, is_distributed
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..runner.loops import ResumableEpochLoop

SIGNALS = [
    getattr(signal, name)
    for name in ('SIGTERM', 'SIGUSR1')
    if hasattr(signal, name)  # Windows lacks one
]
PARENT_CHECK_SECONDS = 2.0  # between a worker's looks whether it has a parent


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save a checkpoint on SIGTERM or SIGUSR1, then exit with status 0.

    The checkpoint is saved after the current iteration, or with accumulated
    gradients after the next one that updates the weights. Its name is
    CheckpointHook's 'iter_N.pth' or, within an epoch, 'epoch_E_iter_N.pth'
    after E whole epochs. `--resume` continues with the next batch. An
    evaluation, or a run in its last iteration, is finished instead.
    tools/train.py adds the hook; only ResumableEpochLoop resumes within an
    epoch.
    """

    priority = 'LOWEST'  # after the other hooks, so that their work is saved

    def __init__(self) -> None:
        self._received: Optional[signal.Signals] = None
        self._handlers = {}  # as they were, by signal

    def before_train(self, runner: Runner) -> None:
        """Set the signal handlers; Python allows it in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._handlers[number] = signal.signal(number, self._receive)

    def after_train(self, runner: Runner) -> None:
        """Restore the signal handlers."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            # None: set by other than Python, which cannot set it again.
            signal.signal(number, handler or signal.SIG_DFL)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Save and exit if any process received a signal.

        Raises:
            SystemExit: With status 0, if one did.
        """
        if (
            not self._any_received()
            or runner.iter + 1 == runner.max_iters
            or not (getattr(runner.optim_wrapper, 'should_update', lambda: True)())
        ):
            return
        path = _save(runner, batch_idx)
        for number in self._handlers:  # a second signal must not fail the exit
            signal.signal(number, signal.SIG_IGN)
        cause = self._received.name if self._received else 'Another process'
        saved = (
            f'iteration {runner.iter + 1} is saved to {path}'
            if path
            else 'nothing is saved since the last checkpoint'
        )
        runner.logger.info(
            f'{cause} ends the run: {saved}; the same command with --resume goes on.'
        )
        sys.exit(0)

    def _receive(self, number: int, frame: Any) -> None:
        self._received = signal.Signals(number)

    def _any_received(self) -> bool:
        """Return whether any process received a signal, the same in all processes.

        A signal may reach the processes in different iterations, or only one
        of them. A process that left on its own would leave the others waiting
        for its gradients. This costs the all_reduce of one number in each
        iteration.
        """
        received = self._received is not None
        if is_distributed():
            flag = torch.tensor(int(received))
            all_reduce(flag, op='max')
            received = bool(flag)
        return received


def _end_as_usual() -> None:
    """Let a process that is forked from a run end on signals.

    An evaluator's pool would wait for ever for one that does not.
    """
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if isinstance(getattr(handler, '__self__', None), PreemptionHook):
            signal.signal(number, signal.SIG_DFL)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_end_as_usual)


def _save(runner: Runner, batch_idx: int) -> Optional[str]:
    """Save the state after an iteration and return the path.

    Return None if the run has no CheckpointHook or another loop, or if the
    disk is full and the hook goes on without.
    """
    loop = runner.train_loop
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    if not hooks:
        return None
    meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
    if isinstance(loop, ResumableEpochLoop):
        step = f'{runner.epoch}_iter_{runner.iter + 1}'
        loop.note_seen(batch_idx)
    elif isinstance(loop, IterBasedTrainLoop):
        step = runner.iter + 1
    else:
        return None
    hook = hooks[0]
    hook._save_checkpoint_with_step(runner, step, meta)
    saved = osp.basename(hook.last_ckpt or '')
    return hook.last_ckpt if saved == hook.filename_tmpl.format(step) else None


def protect_workers(loader: DataLoader) -> None:
    """Let the workers of a loader ignore the signals that end a run.

    Slurm and others signal all processes of a job, and without its workers
    the run could not finish the iteration. Workers end when the process that
    loads ends them, or has ended itself.

    Args:
        loader: A loader that has not started its workers.
    """
    if hasattr(signal, 'sigtimedwait'):  # Linux
        # A weak reference, as workers end when their loader is collected.
        loader._get_iterator = partial(_start_blocked, weakref.ref(loader))
        loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)


def _start_blocked(reference: Callable[[], DataLoader]) -> Iterator[Any]:
    """Start workers in which the signals are blocked.

    They are blocked in every thread: those that NumPy starts before a worker
    is initialised would take them.
    """
    loader = reference()
    context = loader.multiprocessing_context or multiprocessing
    if loader.num_workers and context.get_start_method() != 'fork':
        # When it starts, it unblocks SIGTERM.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return type(loader)._get_iterator(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(init: Optional[Callable], worker_id: int, **kwargs) -> None:
    if init is not None:
        init(worker_id, **kwargs)
    # The thread sees who sent the blocked signals.
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    """Exit when the parent asks for it, or was killed.

    PyTorch's worker would first wait until its last batches, which nobody
    reads, are in a pipe.
    """
    parent = parent_process().pid
    starter = os.getppid()  # the same, or a server that forks for it
    while os.getppid() == starter:
        received = signal.sigtimedwait(SIGNALS, PARENT_CHECK_SECONDS)
        if received and received.si_pid == parent:
            break
    os._exit(0)
