"""A run equals another from the same seed, and a resumed one the one that was
not interrupted."""

import json
import os
import random
import signal
import uuid

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from tool_runner import ROOT, run_tool
from torch import nn
from torch.utils.data import DataLoader, Dataset
from workers import end_workers

from biformer_mm.datasets import make_shapes
from biformer_mm.engine.hooks.preemption_hook import PreemptionHook
from biformer_mm.engine.hooks.resumable_seed_hook import ResumableSeedHook, _BatchSeeds

BATCHES = 4


class Noise(Dataset):
    """Samples with an augmentation of each random module."""

    def __len__(self):
        return 2 * BATCHES

    def __getitem__(self, i):
        return dict(
            inputs=torch.full((4,), i / 8) + random.random() + np.random.rand() + torch.rand(4)
        )


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        self.seen = []

    def forward(self, inputs, mode):
        if mode == 'loss':
            self.seen.append(torch.stack(inputs))
            return dict(loss=self.layers(self.seen[-1]).square().mean())
        return [BaseDataElement()]


class Stop(Hook):
    """Ends a run after an iteration."""

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch, outputs=None):
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def train(
    work_dir, num_workers, epochs, resume=False, hook=True, loop='epochs', stop=None, **options
):
    """Train for some epochs, with a validation after each."""
    iterations = epochs * BATCHES
    train_cfg, sampler = dict(
        epochs=(dict(type='ResumableEpochLoop', max_epochs=epochs), DefaultSampler),
        iterations=(
            dict(type='ResumableIterLoop', max_iters=iterations, val_interval=BATCHES),
            InfiniteSampler,
        ),
    )[loop]
    loader = dict(batch_size=2, num_workers=num_workers, persistent_workers=num_workers > 0)
    runner = Runner(
        Net(),
        str(work_dir),
        train_dataloader=dict(
            dataset=Noise(),
            sampler=dict(type=sampler, shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
            **loader,
            **options,
        ),
        val_dataloader=dict(
            dataset=Noise(),
            sampler=dict(type=DefaultSampler, shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
            batch_size=2,
            num_workers=0,
        ),
        val_evaluator=[],
        val_cfg=dict(),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        custom_hooks=[*([ResumableSeedHook()] if hook else []), Stop(stop), PreemptionHook()],
        randomness=dict(seed=3),
        default_scope='mmengine',
        resume=resume,
        experiment_name=uuid.uuid4().hex,  # a message hub of its own
        log_level='ERROR',
    )
    runner.model.layers.apply(
        lambda m: m.reset_parameters() if hasattr(m, 'reset_parameters') else None
    )
    if stop is None:
        runner.train()
    else:
        with pytest.raises(SystemExit):
            runner.train()
    end_workers(runner.train_dataloader)
    return runner.model


@pytest.mark.first_tier(4)
@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
@pytest.mark.parametrize('at', [BATCHES, BATCHES + 2])
def test_resumed_runs_equal_uninterrupted_ones(at, loop, num_workers, tmp_path):
    whole = train(tmp_path / 'whole', num_workers, 3, loop=loop)
    train(tmp_path / 'parts', num_workers, 3, loop=loop, stop=at)
    torch.manual_seed(99)  # of another process
    resumed = train(tmp_path / 'parts', num_workers, 3, loop=loop, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert len(resumed.seen) == 3 * BATCHES - at
    for batch, expected in zip(resumed.seen, whole.seen[at:]):
        assert torch.equal(batch, expected)


def test_augmentations_are_the_same_for_any_number_of_workers(tmp_path):
    none, two, three = (train(tmp_path / f'{workers}', workers, 2).seen for workers in (0, 2, 3))
    assert all(map(torch.equal, none, two))
    assert all(map(torch.equal, none, three))


def test_ranks_have_their_own_augmentations():
    drawn = []
    for rank in (0, 1):
        loader = DataLoader(range(2))
        _BatchSeeds(loader, seed=3, rank=rank).begin(0)
        drawn.append((random.random(), np.random.rand(), torch.rand(1)))
    assert all(one != two for one, two in zip(*drawn))


def test_each_epoch_has_its_own_augmentations(tmp_path):
    seen = train(tmp_path, 2, 2).seen
    first, second = (torch.cat(seen[i : i + BATCHES]) for i in (0, BATCHES))
    shifts = [x - x.floor() for x in (first, second)]
    assert not torch.equal(*(s.sort(0).values for s in shifts))


@FUNCTIONS.register_module('tests_own_worker_init')
def own_init(worker_id):
    """A user's, which takes no seed."""


def test_workers_with_a_start_of_their_own_keep_it(tmp_path):
    model = train(tmp_path, 2, 2, worker_init_fn=dict(type='tests_own_worker_init'))
    assert len(model.seen) == 2 * BATCHES


def test_without_the_hook_they_differ(tmp_path):
    """What the hook is for."""
    whole = train(tmp_path / 'whole', 0, 2, hook=False)
    train(tmp_path / 'parts', 0, 1, hook=False)
    torch.manual_seed(99)
    resumed = train(tmp_path / 'parts', 0, 2, True, hook=False)
    assert not torch.equal(whole.layers[0].weight, resumed.layers[0].weight)


DEMO = f"""
_base_ = [{str(ROOT / 'configs/biformer_demo.py')!r}]
model = dict(backbone=dict(drop_path_rate=0.3))
train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = []
train_dataloader = dict(batch_size=4, num_workers=2)
val_dataloader = dict(batch_size=4)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_training(tmp_path):
    """By tools/train.py, with workers, augmentations and stochastic depth."""
    make_shapes(tmp_path / 'data/shapes/imagenet', 'imagenet', 16, 8, image_size=64)
    (tmp_path / 'demo.py').write_text(DEMO)

    def train(name, seed):
        """Weights, and what was logged of each iteration and evaluation."""
        run_tool(
            'train.py',
            'demo.py',
            '--work-dir',
            name,
            '--cfg-options',
            f'randomness.seed={seed}',
            cwd=tmp_path,
        )
        (log,) = (tmp_path / name).glob('*/vis_data/scalars.json')
        logged = [json.loads(line) for line in log.read_text().splitlines()]
        for entry in logged:
            for key in ('time', 'data_time', 'memory'):
                entry.pop(key, None)
        state = torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)
        return state['state_dict'], logged

    weights, logged = train('first', 5)
    same, logged_too = train('second', 5)
    other, logged_of_other = train('third', 6)
    assert [entry['loss'] for entry in logged if 'loss' in entry]
    assert any('accuracy/top1' in entry for entry in logged)
    assert logged == logged_too != logged_of_other
    for name, value in weights.items():
        assert torch.equal(value, same[name]), name
    changed = [
        name
        for name, value in weights.items()
        if value.is_floating_point() and not torch.equal(value, other[name])
    ]
    assert 'head.fc.weight' in changed
