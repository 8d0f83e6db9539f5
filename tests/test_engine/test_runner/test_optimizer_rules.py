import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook, IterTimerHook
from mmengine.model import ExponentialMovingAverage, MomentumAnnealingEMA
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from biformer_mm.engine.runner.optimizer_rules import check_custom_keys, check_slow_averages
from biformer_mm.models import BiFormer

ARCH = dict(base='small', embed_dims=(32, 32, 32, 32), depths=(1, 1, 1, 1), head_dim=32)


@pytest.fixture(scope='module')
def model():
    return nn.ModuleDict(
        dict(
            backbone=BiFormer(ARCH, out_indices=(3,), out_norm='LN'),
            decoder=nn.ModuleDict(dict(layer3=nn.Linear(32, 32))),
            scale=nn.ParameterList([nn.Parameter(torch.ones(1))]),
        )
    )


def keys(model, constructor=None, **custom_keys):
    wrapper = dict(paramwise_cfg=dict(custom_keys=custom_keys))
    if constructor is not None:
        wrapper['constructor'] = constructor
    return [(found.kind, found.detail) for found in check_custom_keys(model, wrapper)]


@pytest.mark.parametrize(
    'key, close',
    [
        ('bakbone', 'backbone'),
        ('back_bone', 'backbone'),
        ('Backbone', 'backbone'),
        ('backbone.stage', None),
        ('bakbone.stages.0', 'backbone.stages.0'),
        ('layer3.weights', 'layer3.weight'),
    ],
)
def test_keys_that_are_misspelt(model, key, close):
    found = keys(model, **{key: dict(decay_mult=0.0)})
    if close is None:  # part of a name
        assert found == []
    else:
        ((kind, said),) = found
        assert kind == 'custom-keys'
        assert said.endswith(f'did you mean {close}?')


@pytest.mark.parametrize('key', ['encoder', 'layer4', 'reference_points', 'absolute_pos_embed'])
def test_keys_of_another_model_are_not_refused(model, key):
    """Configs of Swin and DETR have them, and variants lack the parameters."""
    assert keys(model, **{key: dict(decay_mult=0.0)}) == []
    assert keys(model, **{key: dict(lr_mult=1.0, decay_mult=0.0)}) == []
    ((kind, said),) = keys(model, **{key: dict(lr_mult=0.1)})
    assert kind == 'unused-custom-keys'
    assert 'changes no rate; names are such as backbone.' in said


@pytest.mark.parametrize('key', ['backbone', 'norm', 'scale', '.scale', 'decoder.layer3'])
def test_keys_that_match_as_mmengine_matches_them(model, key):
    """Against the groups that MMEngine's constructor makes."""
    paramwise = dict(custom_keys={key: dict(lr_mult=0.1)})
    optimizer = dict(type='SGD', lr=1.0, weight_decay=0.1)
    built = DefaultOptimWrapperConstructor(dict(optimizer=optimizer), paramwise)(model)
    used = any(group['lr'] == 0.1 for group in built.param_groups)
    assert used == (keys(model, **paramwise['custom_keys']) == [])
    assert used or key == '.scale'  # its parameter is scale.0


def test_a_parameter_of_the_model_itself_starts_with_a_dot():
    model = nn.Linear(1, 1)
    assert keys(model, **{'.bias': dict(lr_mult=0.1)}) == []


def test_frozen_parameters_count(model):
    frozen = copy.deepcopy(model)
    frozen.backbone.requires_grad_(False)
    assert keys(frozen, backbone=dict(lr_mult=0.1)) == []


def test_other_constructors_are_passed_over(model):
    typo = dict(bakbone=dict(lr_mult=0.1))
    assert keys(model, 'LearningRateDecayOptimWrapperConstructor', **typo) == []
    assert len(keys(model, DefaultOptimWrapperConstructor, **typo)) == 1
    assert len(keys(model, 'LayerDecayOptimWrapperConstructor', **typo)) == 1
    assert len(keys(nn.DataParallel(model), **typo)) == 1
    assert list(check_custom_keys(model, dict(paramwise_cfg=None))) == []
    assert list(check_custom_keys(model, dict())) == []


def slow(hook, iters, epochs=1):
    loop = SimpleNamespace(max_iters=iters, max_epochs=epochs)
    return list(check_slow_averages([IterTimerHook(), hook], loop))


def average(kind, updates, **settings):
    """Average zeros after a first copy of ones as training does; return what is left."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = kind(model, **settings)
    for _ in range(updates):
        ema.update_parameters(model)
        nn.init.zeros_(model.weight)
    return ema.module.weight.item()


@pytest.mark.parametrize(
    'kind, updates, settings',
    [
        (ExponentialMovingAverage, 1600, dict()),
        (ExponentialMovingAverage, 1000, dict(momentum=0.02, interval=10)),
        (MomentumAnnealingEMA, 300, dict(gamma=1, interval=100)),
    ],
)
def test_the_share_is_that_of_the_average(kind, updates, settings):
    left = average(kind, updates, **settings)
    assert left > 0.1
    (problem,) = slow(EMAHook(kind.__name__, **settings), updates)
    assert (problem.kind, problem.file) == ('slow-ema', 'custom_hooks')
    assert f'after {updates} iterations, {left:.0%} of what EMAHook' in problem.detail


def test_the_cure_leaves_little():
    (problem,) = slow(EMAHook(), 1600)
    momentum = float(problem.detail.rpartition('momentum=')[2])
    assert average(ExponentialMovingAverage, 1600, momentum=momentum) < 0.05
    assert slow(EMAHook(momentum=momentum), 1600) == []
    assert slow(EMAHook('MomentumAnnealingEMA'), 1600) == []


def test_averages_that_are_fine():
    assert slow(EMAHook(), 90000) == []
    # Averages of the last epochs start from trained weights.
    assert slow(EMAHook(begin_epoch=9), 1600, 10) == []
    assert slow(EMAHook(begin_iter=1000), 1600) == []
    assert len(slow(EMAHook(begin_epoch=1), 1600, 10)) == 1
    assert slow(EMAHook('StochasticWeightAverage'), 1600) == []
