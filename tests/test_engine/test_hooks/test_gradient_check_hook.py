"""Losses that teach nothing, in small trainings."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.model.wrappers import MMFullyShardedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import distributed as torch_distributed
from torch import nn
from torch.nn import functional

from biformer_mm.engine.hooks.gradient_check_hook import GradientCheckHook
from biformer_mm.utils.errors import UsageError


class Net(BaseModel):
    """A classifier with two heads, of which the second may be useless."""

    def __init__(self, classes=3, aux_weight=1.0, unused=False, nan_gradients=0):
        super().__init__()
        self.backbone = nn.Linear(4, 8)
        self.head = nn.Linear(8, classes)
        self.aux_head = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, classes))
        if unused:
            self.neck = nn.Linear(8, 8)
        self.classes, self.aux_weight = classes, aux_weight
        self.steps, self.nan_gradients = 0, nan_gradients

    def forward(self, inputs, data_samples=None, mode='loss'):
        self.steps += 1
        x = self.backbone(inputs)
        target = torch.arange(len(x)) % self.classes
        loss = functional.cross_entropy(self.head(x), target)
        aux = functional.cross_entropy(self.aux_head(x), target) * self.aux_weight
        if self.steps <= self.nan_gradients:
            loss = loss + (x * 0).sqrt().sum()  # 0, with a gradient of nan
        return dict(loss=loss, loss_aux=aux)


def train(model, iterations, wrapper=OptimWrapper, lr=0.1, data_samples=None, **options):
    """Train with the hook; return its warnings."""
    torch.manual_seed(0)
    warnings = []
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=wrapper(optimizer=optimizer, **options),
        logger=SimpleNamespace(warning=warnings.append),
    )
    hook = GradientCheckHook()
    hook.before_train(runner)
    for i in range(iterations):
        batch = dict(inputs=torch.randn(6, 4), data_samples=data_samples)
        outputs = model.train_step(batch, runner.optim_wrapper)
        hook.after_train_iter(runner, i, batch, outputs)
    return warnings


def test_a_model_that_learns_is_not_warned_of():
    assert train(Net(), 120) == []


def test_all_gradients_are_zero():
    """As of a softmax over one class."""
    (warning,) = train(Net(classes=1), 120)
    assert 'all gradients of the first 5 updates are 0' in warning
    assert 'loss 0.0000, loss_aux 0.0000' in warning
    assert 'label' not in warning


def test_shards_are_not_looked_at():
    """A process holds nothing of most parameters, which is no lack of gradients."""
    torch_distributed.init_process_group(
        'gloo', store=torch_distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model = MMFullyShardedDataParallel(Net(classes=1), device_id=torch.device('cpu'))
        assert train(model, 5) == []
    finally:
        torch_distributed.destroy_process_group()


def test_updates_are_counted_where_gradients_are_accumulated():
    assert train(Net(classes=1), 14, accumulative_counts=3) == []
    assert len(train(Net(classes=1), 15, accumulative_counts=3)) == 1


@pytest.mark.parametrize('labels, named', [((255, 255), True), ((255, 3), False)])
def test_the_only_label_of_a_batch_is_named(labels, named):
    maps = [torch.full((1, 4, 4), label) for label in labels]
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=one)) for one in maps]
    (warning,) = train(Net(classes=1), 5, data_samples=samples)
    assert ('every pixel of the last batch has label 255' in warning) == named


def test_one_part_learns_nothing():
    model = Net(aux_weight=0.0, unused=True)
    assert train(model, 99) == []
    aux, neck = sorted(train(model, 100))
    assert aux.startswith('aux_head learns nothing: 4 of its 4 parameters')
    assert neck.startswith('neck learns nothing: 2 of its 2 parameters')


def test_heads_of_a_roi_head_are_parts_of_their_own():
    model = Net()
    model.roi_head = nn.ModuleDict(dict(bbox_head=nn.Linear(8, 8), mask_head=nn.Linear(8, 8)))
    model.head.register_forward_pre_hook(lambda module, args: (model.roi_head.bbox_head(args[0]),))
    (warning,) = train(model, 100)
    assert warning.startswith('roi_head.mask_head learns nothing')


@pytest.mark.parametrize('taught, warned', [(1, True), (2, False)])
def test_a_part_of_which_a_tenth_learns(taught, warned):
    """As where most gradients are too small for half precision."""
    model = Net()
    model.neck = nn.ParameterList(torch.ones(8) for _ in range(10))
    used = list(model.neck)[:taught]
    model.head.register_forward_pre_hook(lambda module, args: (args[0] * sum(used),))
    warnings = train(model, 100)
    assert warnings == [] if not warned else 'neck learns nothing: 9 of its 10' in warnings[0]


def test_frozen_parts_are_not_warned_of():
    model = Net(aux_weight=0.0)
    model.aux_head.requires_grad_(False)
    assert train(model, 100) == []


def test_one_gradient_in_a_hundred_updates_is_enough():
    model = Net(aux_weight=0.0)
    model.head.register_forward_pre_hook(
        lambda *args: setattr(model, 'aux_weight', float(model.steps == 50))
    )
    assert train(model, 100) == []


@pytest.fixture
def amp(monkeypatch):
    """MMEngine's wrapper for mixed precision, on a CPU."""
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('this PyTorch scales gradients on GPUs only')
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    return AmpOptimWrapper


def test_mixed_precision_that_skips_every_update_stops(amp):
    model = Net(nan_gradients=1000)
    before = model.head.weight.clone()
    train(model, 49, amp)
    with pytest.raises(UsageError, match='skips every update.*--amp bfloat16'):
        train(model, 50, amp)
    assert torch.equal(model.head.weight, before)


def test_a_static_scale_that_overflows_stops(amp):
    with pytest.raises(UsageError, match=r'loss scale 1e\+38'):
        train(Net(aux_weight=1e3), 50, amp, loss_scale=1e38)
    assert train(Net(), 50, amp, loss_scale=1e3) == []


def test_updates_that_are_skipped_later_stop(amp):
    model = Net()
    train(model, 60, amp)
    model.nan_gradients = 10**6
    with pytest.raises(UsageError, match='the last 50 have changed no weight'):
        train(model, 100, amp)


def test_updates_that_are_skipped_first_do_not_stop(amp):
    """As with each dynamic scale."""
    assert train(Net(nan_gradients=40), 150, amp) == []


def test_a_rate_of_zero_does_not_stop(amp):
    assert train(Net(), 60, amp, lr=0.0) == []
