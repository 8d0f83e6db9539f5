"""Ends all processes of a distributed run when one of them hangs or fails."""

import os
from datetime import timedelta
from typing import Any, Optional

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.distributed import PrefixStore, Store, TCPStore

from biformer_mm.ops.validation import number

from ..runner.watch import Watch


@HOOKS.register_module()
class HangHook(Hook):
    """Ends a distributed run in which a process hangs or has failed.

    Progress is a batch that was loaded, a loss, an iteration that was done, an
    epoch or evaluation that began or ended. When the processes that are behind
    have made none for a while, they print the Python stacks of their threads,
    then the others name them, and all end with a status that is not 0. When
    one fails by an exception, the others end within 20 seconds, with NCCL as
    well. Nothing is done in a run of one process. tools/train.py adds it.

    Args:
        timeout: Seconds without progress. What takes longer on purpose, such
            as computing the metrics of an evaluation, needs more; NCCL itself
            aborts without a stack after 600.

    Raises:
        ValueError: ``timeout`` is no number above 0.
    """

    priority = 'LOWEST'  # other hooks' waits for other processes come first

    def __init__(self, timeout: float = 480.0) -> None:
        self.timeout = number('timeout', timeout)
        if self.timeout <= 0:
            raise ValueError(f'timeout must be above 0 s; got {timeout!r}; the default is 480')
        self._watch: Optional[Watch] = None

    def before_run(self, runner: Runner) -> None:
        """Begin to watch, and learn of errors in training."""
        if get_world_size() == 1:
            return
        self._watch = watch = Watch(get_rank(), get_world_size(), self.timeout)
        watch.start(_connect)
        loop = runner._train_loop
        if not hasattr(loop, 'run'):  # a config's, in a test
            return
        run = loop.run

        def run_watched() -> Any:
            try:
                return run()
            except BaseException as error:
                watch.fail(error)
                raise

        loop.run = run_watched

    def before_train(self, runner: Runner) -> None:
        """A loss is progress."""
        if self._watch is None:
            return
        update = runner.optim_wrapper.update_params

        def update_watched(*args: Any, **kwargs: Any) -> None:
            self._advance(runner, 'a loss was computed')
            update(*args, **kwargs)

        runner.optim_wrapper.update_params = update_watched

    def after_run(self, runner: Runner) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._advance(runner, f'{mode} began', phase=True)

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._advance(runner, f'{mode} ended', phase=True)

    def _before_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train'
    ) -> None:
        self._advance(runner, f'{mode} batch {batch_idx + 1} was loaded')

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        self._advance(runner, f'{mode} batch {batch_idx + 1} was done')

    def _advance(self, runner: Runner, event: str, phase: bool = False) -> None:
        if self._watch is not None:
            self._watch.advance(f'{event}, after {runner.iter} iterations', phase)


def _connect() -> Store:
    """A connection of its own: others may wait in the group's."""
    store = TCPStore(
        os.environ['MASTER_ADDR'],
        int(os.environ['MASTER_PORT']),
        None,
        False,
        timeout=timedelta(seconds=60),
        wait_for_workers=False,
    )
    # torchrun's store outlives the processes that it starts again.
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    return PrefixStore(f'biformer_mm_hang_{attempt}', store)
