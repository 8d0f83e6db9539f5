"""Training loops that resume with the batch after the last one seen."""

from itertools import count, islice
from typing import Any, Dict, Iterable, Iterator, List, Union

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from biformer_mm.utils.errors import UsageError

_SEEN = 'batches_seen'  # in a checkpoint's message hub
_NO_BATCH = (
    'train_dataloader must have a batch, it has none; lower its batch_size or set drop_last=False'
)


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop, which also resumes within an epoch.

    It skips the batches that were seen, without loading them, so that each
    sample still comes once per epoch. If the length of the epoch has changed
    with the number of GPUs, it skips the same share.
    """

    def note_seen(self, batch_idx: int) -> None:
        """Record in the next checkpoint that batches up to ``batch_idx`` were seen."""
        self.runner.message_hub.update_info(_SEEN, (batch_idx + 1, len(self.dataloader)))

    def run_epoch(self) -> None:
        """Iterate over the epoch, or over what is left of it.

        Raises:
            UsageError: There is no batch.
        """
        if not len(self.dataloader):
            raise UsageError(_NO_BATCH)
        hub = self.runner.message_hub
        seen, of = hub.runtime_info.get(_SEEN, (0, 1))
        hub.update_info(_SEEN, (0, 1))
        seen = seen * len(self.dataloader) // of
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(_without(self.dataloader, seen), seen):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop, which does not load seen batches again.

    The original MMEngine loads all of them again, and so does the maintained
    one with samplers that cannot skip.

    Args:
        runner: The runner.
        dataloader: A loader or its config.
        **kwargs: Arguments of MMEngine's loop.
    """

    def __init__(self, runner: Runner, dataloader: Union[DataLoader, Dict], **kwargs) -> None:
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(
                dataloader,
                seed=runner.seed,
                diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
            )
        super().__init__(runner, _Unread(dataloader), **kwargs)
        self.dataloader = dataloader

    def run(self) -> nn.Module:
        """Iterate from the first unseen batch.

        Returns:
            The trained model.

        Raises:
            UsageError: There is no batch.
        """
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        anew = getattr(self, 'fast_forward_on_resume', False)
        self.dataloader_iterator = _endless(self.dataloader, 0 if anew else self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if (
                self.runner.val_loop is not None
                and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
            ):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model


class _Unread:
    """Stand in for a loader during construction.

    Older versions of MMEngine start to load there, before it is known which
    batches were seen.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _LaterBatches:
    """A batch sampler that skips the first batches."""

    def __init__(self, batches: Iterable[List[int]], seen: int) -> None:
        self.batches, self.seen = batches, seen

    def __iter__(self) -> Iterator[List[int]]:
        return islice(self.batches, self.seen, None)

    def __len__(self) -> int:
        return len(self.batches)


class _EndlessBatches:
    """A batch sampler that starts again at its end."""

    def __init__(self, loader: DataLoader) -> None:
        self.batches = loader.batch_sampler
        self.samplers = loader.sampler, getattr(self.batches, 'sampler', None)

    def __iter__(self) -> Iterator[List[int]]:
        for epoch in count():
            for sampler in self.samplers:
                if hasattr(sampler, 'set_epoch'):
                    sampler.set_epoch(epoch)
                    break
            batch = None
            for batch in self.batches:
                yield batch
            if batch is None:
                raise UsageError(_NO_BATCH)


def _without(loader: DataLoader, seen: int) -> Iterator[Any]:
    """Iterate over a loader's batches without loading the first ``seen``."""
    if not seen:
        return iter(loader)
    return _iterate(loader, _LaterBatches(loader.batch_sampler, seen))


def _endless(loader: DataLoader, seen: int) -> Iterator[Any]:
    """Iterate over a loader's batches endlessly, without loading the first ``seen``."""
    if isinstance(loader.dataset, IterableDataset):
        while True:  # it has no sampler that could skip
            yield from loader
    yield from _iterate(loader, _LaterBatches(_EndlessBatches(loader), seen))


def _iterate(loader: DataLoader, batches: _LaterBatches) -> Iterator[Any]:
    """Iterate over a loader with another batch sampler."""
    own = loader.batch_sampler
    # Past DataLoader's __setattr__, which takes no other sampler.
    vars(loader)['batch_sampler'] = batches
    try:
        return iter(loader)
    finally:
        vars(loader)['batch_sampler'] = own
        batches.seen = 0  # persistent workers' iterator keeps this sampler
