"""A hook that ends a distributed run when one of its processes hangs."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, Optional

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from biformer_mm.ops.validation import check_number

_STDERR = 2  # as a number: sys.stderr has a lock, which a hung thread may hold
_DELAY = 10.0  # seconds from the stacks to the exit: a launcher kills the others at the first exit


@HOOKS.register_module()
class HangHook(Hook):
    """End a distributed run in which a process hangs.

    Each process is watched by a thread of its own. If it begins or finishes no
    iteration, epoch or evaluation for ``timeout`` seconds, it prints the
    Python stacks of its threads and of the workers that load its data, and
    exits with status 1. So do the processes that wait for it. If it hangs in
    code that holds the interpreter, the timer of ``faulthandler`` does the
    same. After an exception the watch goes on, as the exit of a process can
    hang, too.

    The hook does nothing in a run of one process. tools/train.py adds it.

    Args:
        timeout: Limit in seconds for each of these steps. Raise it if one
            takes longer on purpose, such as the metrics of a large evaluation.

    Raises:
        ValueError: ``timeout`` is not a number above 0.
    """

    priority = 'LOWEST'  # the work of other hooks is part of a step

    def __init__(self, timeout: float = 480.0) -> None:
        self.timeout = check_number('timeout', timeout)
        if self.timeout <= 0:
            raise ValueError(f'timeout must be above 0 s; got {timeout!r}; the default is 480')
        self._watcher: Optional[threading.Thread] = None
        self._stop = threading.Event()

    def before_run(self, runner: Runner) -> None:
        """Start to watch, in a distributed run."""
        self.after_run(runner)  # of a run that an exception ended
        if get_world_size() == 1:
            return
        if not faulthandler.is_enabled():
            faulthandler.enable(_STDERR)  # a forked worker prints its stacks when it is aborted
        os.environ['PYTHONFAULTHANDLER'] = '1'  # a spawned one, too
        self._advance('the run began')
        self._stop.clear()
        self._watcher = threading.Thread(target=self._watch, args=(get_rank(),), daemon=True)
        self._watcher.start()

    def after_run(self, runner: Runner) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._stop.set()
            self._watcher.join()
            self._watcher = None
            faulthandler.cancel_dump_traceback_later()

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._advance(f'{mode} began, after {runner.iter} iterations')

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._advance(f'{mode} ended, after {runner.iter} iterations')

    def _before_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train'
    ) -> None:
        self._advance(f'{mode} batch {batch_idx + 1} was loaded, after {runner.iter} iterations')

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        self._advance(f'{mode} batch {batch_idx + 1} was done, after {runner.iter} iterations')

    def _advance(self, event: str) -> None:
        self._event, self._moved = event, time.monotonic()

    def _watch(self, rank: int) -> None:
        while not self._stop.wait(min(1.0, self.timeout / 10)):
            if time.monotonic() - self._moved > self.timeout:
                self._end(rank)
            # Runs out only if this thread cannot run: the interpreter is held.
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=_STDERR)

    def _end(self, rank: int) -> None:
        """Print the stacks and exit."""
        # Should what follows get stuck.
        faulthandler.dump_traceback_later(3 * _DELAY, exit=True, file=_STDERR)
        stacks = _stacks()
        text = (
            f'rank {rank} makes no progress for {self.timeout:g} s (timeout of HangHook) since '
            f'{self._event}. Stacks of its threads:\n{stacks}'
        )
        os.write(_STDERR, text.encode())  # at once, as others may print, too
        if 'torch/utils/data/dataloader.py' in stacks:
            for worker in multiprocessing.active_children():
                os.write(_STDERR, f'worker {worker.pid} of rank {rank} is aborted:\n'.encode())
                os.kill(worker.pid, signal.SIGABRT)
                worker.join(1)
        time.sleep(_DELAY)
        os._exit(1)


def _stacks() -> str:
    """Format the Python stacks of all threads but this one."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return ''.join(
        f'{names.get(ident, ident)}:\n{"".join(traceback.format_stack(frame))}'
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    )
