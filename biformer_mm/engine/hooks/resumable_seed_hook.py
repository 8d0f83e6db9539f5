"""Make random numbers independent of where a run was interrupted."""

import random
from functools import partial
from typing import Any, Callable, Optional, Sequence

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed
from torch.utils.data import DataLoader, get_worker_info


@HOOKS.register_module()
class ResumableSeedHook(Hook):
    """Seed the loading of each batch, and each iteration.

    MMEngine restores weights, optimiser, schedules, averages and the order of
    the data, but no random state. With this hook, and the loops of
    biformer_mm.engine.runner.loops, a resumed run continues as if it had not
    been interrupted, bit for bit where the computation is deterministic. Data
    workers, which MMEngine seeds alike in every epoch, draw new augmentations
    in each epoch; these do not depend on the number of workers.
    tools/train.py adds the hook.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._seeds: Optional[_BatchSeeds] = None

    def before_train(self, runner: Runner) -> None:
        """Seed each batch, unless the user set a worker_init_fn."""
        loader = runner.train_dataloader
        if not loader.num_workers or (_innermost(loader.worker_init_fn) is worker_init_fn):
            self._seeds = _BatchSeeds(loader, runner.seed, runner.rank)

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the epoch's first batches."""
        if self._seeds:
            # Persistent workers would go on with their old random states.
            runner.train_dataloader._iterator = None
            self._seeds.begin(runner.iter)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[Sequence[Any]] = None
    ) -> None:
        """Seed the iteration."""
        set_random_seed(
            _mix(1, runner.seed, runner.iter),
            diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
        )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[Sequence[Any]] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Seed the next batch."""
        if self._seeds:
            self._seeds.begin(runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Seed the next batch, as a resumed run does not repeat a validation."""
        if self._seeds:
            self._seeds.begin(runner.iter)


class _BatchSeeds:
    """Seed the process that loads a batch, before each batch.

    Args:
        loader: The loader to change.
        seed: The run's seed.
        rank: The process's rank; each rank draws other augmentations.
    """

    def __init__(self, loader: DataLoader, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank
        self.first = 0  # index in the run of the next batch to load
        self.loaded = 0  # by this worker
        self.workers = loader.num_workers
        if self.workers:
            self.init, self.collate = loader.worker_init_fn, loader.collate_fn
            loader.worker_init_fn = self.start_worker
            loader.collate_fn = self.finish_batch
        else:
            # A loader draws a number when it starts. It must not come from the
            # batch's random state, as a resumed run starts at another batch.
            loader.generator = loader.generator or torch.Generator()

    def begin(self, batch: int) -> None:
        """Seed ``batch``, the next that this process or new workers load."""
        self.first = batch
        if not self.workers:
            self._seed(batch)

    def start_worker(self, worker_id: int) -> None:
        """Seed a worker's first batch; workers take turns."""
        self.init(worker_id)
        self._seed(self.first + worker_id)

    def finish_batch(self, samples: Sequence[Any]) -> Any:
        """Collate loaded samples, and seed the worker's next batch."""
        batch = self.collate(samples)
        self.loaded += 1
        self._seed(self.first + get_worker_info().id + self.loaded * self.workers)
        return batch

    def _seed(self, batch: int) -> None:
        seed = _mix(0, self.seed, self.rank, batch)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (augmentations draw from the global state)
        torch.manual_seed(seed)


def _innermost(function: Optional[Callable]) -> Optional[Callable]:
    """Return the function that nested partials call in the end.

    A callable first argument counts as wrapped by the partial's function.
    """
    while isinstance(function, partial):
        wrapped = function.args and callable(function.args[0])
        function = function.args[0] if wrapped else function.func
    return function


def _mix(*numbers: int) -> int:
    """Mix several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
