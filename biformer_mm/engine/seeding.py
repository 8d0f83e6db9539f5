"""Random numbers that do not depend on where a run was interrupted."""
from functools import partial
from typing import Any, Callable, Optional, Sequence

import numpy as np
from mmengine.dataset import worker_init_fn
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed


@HOOKS.register_module()
class ResumableSeedHook(Hook):
    """Draws the random numbers of each epoch and iteration from its own seed.

    MMEngine restores weights, optimiser, schedules, averages and the order of
    the data, but no random state. With this hook a run that is resumed after
    an epoch goes on as if it had not been interrupted, bit for bit where the
    computation is deterministic; and workers that load data, which MMEngine
    seeds alike in every epoch, draw new augmentations in each. Iteration-based
    runs go on with the same order of data, but other augmentations: MMEngine
    skips what was seen without loading it. tools/train.py adds the hook.
    """
    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the process, and the workers that load this epoch's data."""
        self._seed(runner, (0, runner.epoch))
        loader = runner.train_dataloader
        if loader.num_workers and (_innermost(loader.worker_init_fn) is
                                   worker_init_fn):
            # Persistent workers would go on with their old random states.
            loader._iterator = None
            loader.worker_init_fn = partial(
                loader.worker_init_fn, seed=_mix(runner.seed, 0, runner.epoch))

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence[Any]] = None) -> None:
        """Seed the process."""
        self._seed(runner, (1, runner.iter))

    def _seed(self, runner: Runner, place: Sequence[int]) -> None:
        set_random_seed(
            _mix(runner.seed, *place),
            diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False))


def _innermost(function: Optional[Callable]) -> Optional[Callable]:
    """What partials call in the end; a function that one gives to another as
    the first argument is called by that one."""
    while isinstance(function, partial):
        wrapped = function.args and callable(function.args[0])
        function = function.args[0] if wrapped else function.func
    return function


def _mix(*numbers: int) -> int:
    """One seed of several numbers, unlike that of any others."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
