"""Losses that are not finite, in a small training."""

import logging
from contextlib import contextmanager

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from biformer_mm.engine.hooks import nonfinite_loss_hook
from biformer_mm.engine.hooks.nonfinite_loss_hook import NonFiniteLossHook, find_origin
from biformer_mm.utils.errors import UsageError

BAD = 2  # the sample with which the network comes to nan


class Samples(Dataset):
    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 6

    def __getitem__(self, i):
        value = -1.0 if i in self.bad else 1.0
        return dict(
            inputs=torch.full((3,), value),
            data_samples=BaseDataElement(metainfo=dict(img_path=f'{i}.jpg')),
        )


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()  # nan where x is negative


class Net(BaseModel):
    def __init__(self, broken):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
        self.root = Root()
        self.large = nn.Linear(3, 1, bias=False)
        self.large.weight.data = torch.tensor([[3.4e38, 0.0, 0.0]])
        self.broken = broken

    def forward(self, inputs, data_samples, mode):
        x = torch.stack(inputs)
        if self.broken == 'module':
            x = self.layers(x) + self.root(x)
        elif self.broken == 'loss':
            x = self.layers(x) + x.sqrt()
        elif self.broken == 'half':
            x = self.layers(x) + self.large(x) * 1e-38
        return dict(loss=x.square().mean(), loss_other=x.mean())


@pytest.fixture
def train(tmp_path):
    """Train an epoch of single samples; give the runner."""

    def run(broken='module', bad=(BAD,), poison=None, wrapper=OptimWrapper, **options):
        runner = Runner(
            Net(broken),
            str(tmp_path),
            train_dataloader=dict(
                dataset=Samples(bad),
                sampler=dict(type=DefaultSampler, shuffle=False),
                collate_fn=dict(type='pseudo_collate'),
                batch_size=2,
                num_workers=0,
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(type=wrapper, optimizer=dict(type='SGD', lr=0.1)),
            custom_hooks=[NonFiniteLossHook(**options)],
            default_scope='mmengine',
            log_level='ERROR',
        )
        if poison:
            runner.model.get_parameter(poison).data[0] = float('inf')
        run.runner = runner
        runner.train()
        return runner

    return run


def all_finite(model):
    return all(value.isfinite().all() for value in model.state_dict().values())


def test_stops_before_the_weights_change(train):
    with pytest.raises(UsageError) as error:
        train()
    assert str(error.value) == (
        'the loss of iteration 2 is not finite; files: 2.jpg, 3.jpg; first in '
        'root (Root); look at these files, lower the rate or clip gradients, '
        'and go on from the last checkpoint with --resume'
    )
    assert train.runner.model.layers[1].weight.isfinite().all()


def test_names_the_loss(train):
    with pytest.raises(UsageError, match='first in the loss, loss, loss_oth'):
        train('loss')


def test_names_weights_that_are_not_finite_already(train):
    with pytest.raises(UsageError, match='iteration 1 .*finite already, first layers.1.weight'):
        train(bad=(), poison='layers.1.weight')


class HalfWrapper(OptimWrapper):
    """What AmpOptimWrapper does on a GPU; 3.4e38 is too much for it."""

    @contextmanager
    def optim_context(self, model):
        with torch.autocast('cpu', torch.bfloat16):
            yield


def test_runs_again_in_the_precision_of_the_training(train):
    train('half', bad=())
    with pytest.raises(UsageError, match=r'first in large \(Linear\)'):
        train('half', bad=(), wrapper=HalfWrapper)


def test_a_model_with_sharded_weights_is_not_run_again(train, monkeypatch):
    """Its layers have no whole weights outside of the wrapper's forward pass."""
    monkeypatch.setattr(nonfinite_loss_hook, 'has_sharded_weights', lambda model: True)
    monkeypatch.setattr(nonfinite_loss_hook, 'find_origin', None)
    with pytest.raises(UsageError, match='3.jpg; not located, as the weights are sharded; look'):
        train()


def test_stage_3_of_deepspeed_shards_weights():
    for stage in (1, 3):
        model = nn.Linear(2, 2)
        model.zero_optimization_partition_weights = lambda stage=stage: stage == 3
        assert nonfinite_loss_hook.has_sharded_weights(model) == (stage == 3)
    assert not nonfinite_loss_hook.has_sharded_weights(nn.Linear(2, 2))


def test_images_that_are_not_finite_are_run_to_the_end():
    """Where the other processes may wait for this one."""
    model, ran = Net('module').train(), []
    model.register_forward_hook(lambda *args: ran.append(True))
    batch = dict(inputs=[torch.full((3,), float('nan'))] * 2, data_samples=[])
    assert find_origin(model, batch) == 'the images are not finite already'
    assert ran == [True]


def test_skips_up_to_a_limit(train, caplog):
    runner = train(max_skips=1)
    assert runner.iter == 3 and all_finite(runner.model)
    bias = runner.model.layers[1].bias
    alone = train(bad=())  # without a bad batch there is a step more
    assert not torch.equal(bias, alone.model.layers[1].bias)
    with pytest.raises(UsageError, match='iteration 3 .*; 1 before it were'):
        train(bad=(BAD, 4), max_skips=1)


def test_says_what_it_skips(train, monkeypatch):
    lines = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *_, **__: lines.append(text))
    train(max_skips=3)
    assert [line for line in lines if 'passed over' in line] == [
        'the loss of iteration 2 is not finite; files: 2.jpg, 3.jpg; first in '
        'root (Root); passed over, 1 of at most 3'
    ]


def test_overflow_that_the_scaler_corrects_is_none(train, tmp_path):
    """The loss is finite; its scaled gradients are not, and are not used."""

    class Scaler(OptimWrapper):
        """What AmpOptimWrapper does on a GPU."""

        def update_params(self, loss, *args, **kwargs):
            self.zero_grad()
            (loss * 1e38 * 1e38).backward()
            grads = [p.grad for g in self.param_groups for p in g['params']]
            assert not all(g.isfinite().all() for g in grads)
            self.overflows = getattr(self, 'overflows', 0) + 1

    runner = Runner(
        Net('module'),
        str(tmp_path),
        train_dataloader=dict(
            dataset=Samples(()),
            sampler=dict(type=DefaultSampler, shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=Scaler(torch.optim.SGD([torch.zeros(1)], lr=0.1)),
        custom_hooks=[NonFiniteLossHook()],
        default_scope='mmengine',
        log_level='ERROR',
    )
    runner.optim_wrapper.optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.1)
    runner.train()
    assert runner.iter == 3 and runner.optim_wrapper.overflows == 3
