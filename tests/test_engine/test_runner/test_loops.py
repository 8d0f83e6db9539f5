"""Loops go on with the batch after the last one seen."""

import itertools
import uuid

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from workers import end_workers

from biformer_mm.engine.runner import loops
from biformer_mm.utils.errors import UsageError

SIZE = 2


class Numbers(Dataset):
    """Notes what is loaded of it, in this process."""

    def __init__(self, length=12):
        self.length, self.loaded = length, []

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        self.loaded.append(i)
        return dict(inputs=torch.full((4,), float(i)))


class Stream(IterableDataset):
    def __len__(self):
        return 6

    def __iter__(self):
        return (dict(inputs=torch.full((4,), float(i))) for i in range(6))


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(torch.stack(inputs)).square().mean())


class Watch(Hook):
    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs=None):
        self.seen.append([int(x[0]) for x in data_batch['inputs']])


def train(
    work_dir,
    length,
    type='ResumableIterLoop',
    sampler=InfiniteSampler,
    workers=0,
    dataset=None,
    drop_last=False,
    resume=False,
    **loop,
):
    """Train for as many iterations, or epochs by ResumableEpochLoop; return
    the data set and the batches."""
    unit = 'max_epochs' if type == 'ResumableEpochLoop' else 'max_iters'
    watch = Watch()
    runner = Runner(
        Net(),
        str(work_dir),
        train_dataloader=dict(
            dataset=dataset or Numbers(),
            sampler=sampler and dict(type=sampler, shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
            batch_size=SIZE,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
        ),
        train_cfg=dict(type=type, **{unit: length}, **loop),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5)),
        custom_hooks=[watch],
        randomness=dict(seed=3),
        default_scope='mmengine',
        experiment_name=uuid.uuid4().hex,  # a message hub of its own
        resume=resume,
        log_level='ERROR',
    )
    runner.train()
    end_workers(runner.train_dataloader)
    return runner.train_dataloader.dataset, watch.seen


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('sampler', [InfiniteSampler, DefaultSampler])
def test_iterations_go_on_in_any_pass(sampler, workers, tmp_path):
    """With the order of MMEngine's loop, and without loading what was seen."""
    kwargs = dict(sampler=sampler, workers=workers)
    _, expected = train(tmp_path / 'whole', 14, type='IterBasedTrainLoop', sampler=sampler)
    for part in (5, 13):  # in the first pass of 6 batches, and in the third
        train(tmp_path / f'{part}', part, **kwargs)
        dataset, seen = train(tmp_path / f'{part}', 14, resume=True, **kwargs)
        assert seen == expected[part:]
        if not workers:
            assert len(dataset.loaded) == (14 - part) * SIZE


def test_loading_begins_anew_on_demand(tmp_path):
    """By an option of newer versions of MMEngine."""
    try:
        _, expected = train(tmp_path / 'whole', 5, fast_forward_on_resume=True)
    except TypeError:
        pytest.skip('this version of MMEngine has no fast_forward_on_resume')
    train(tmp_path / 'parts', 5)
    _, seen = train(tmp_path / 'parts', 10, resume=True, fast_forward_on_resume=True)
    assert seen == expected


def test_streams_are_iterated_again_and_again(tmp_path):
    _, seen = train(tmp_path, 7, dataset=Stream(), sampler=None)
    assert seen == [[0, 1], [2, 3], [4, 5]] * 2 + [[0, 1]]


@pytest.mark.parametrize('type', ['ResumableEpochLoop', 'ResumableIterLoop'])
def test_no_batch_is_an_error(type, tmp_path):
    """No epochs of nothing, and no endless search."""
    with pytest.raises(UsageError, match='lower its batch_size'):
        train(tmp_path, 5, type, dataset=Numbers(1), sampler=DefaultSampler, drop_last=True)


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_left_out_of_one_epoch(workers):
    loader = DataLoader(
        range(12), batch_size=2, num_workers=workers, persistent_workers=workers > 0
    )
    sampler = loader.batch_sampler
    left = torch.cat(list(loops._without(loader, 4)))
    assert left.tolist() == [8, 9, 10, 11]
    assert loader.batch_sampler is sampler and len(loader) == 6
    assert torch.cat(list(loader)).tolist() == list(range(12))


def test_what_is_left_out_is_not_loaded():
    dataset = Numbers()
    loader = DataLoader(dataset, batch_size=SIZE)
    list(loops._without(loader, 4))
    assert dataset.loaded == [8, 9, 10, 11]
    dataset.loaded.clear()
    list(itertools.islice(loops._endless(loader, 4), 3))
    assert dataset.loaded == [8, 9, 10, 11, 0, 1]


def test_they_are_loops_of_mmengine():
    """Hooks and schedulers ask."""
    assert issubclass(loops.ResumableEpochLoop, EpochBasedTrainLoop)
    assert issubclass(loops.ResumableIterLoop, IterBasedTrainLoop)
