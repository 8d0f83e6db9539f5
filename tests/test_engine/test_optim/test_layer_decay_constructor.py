"""Layer-wise decay in the frameworks' models, and against mmpretrain's constructor."""

import config_checks
import pytest
from mmengine.config import ConfigDict
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from torch import nn

from biformer_mm.engine.optim.layer_decay_constructor import LayerDecayOptimWrapperConstructor
from biformer_mm.models import BiFormer

ARCH = dict(base='small', embed_dims=(32, 32, 32, 32), depths=(1, 2, 1, 1), head_dim=32)
LR, RATE = 1e-3, 0.8
OPTIMIZER = dict(type='AdamW', lr=LR, weight_decay=0.05)
# Depths of ARCH: stem, 1 + 2 + 1 + 1 blocks with the downsampling after them, the rest.
DEPTHS = {
    'stem.0.weight': 0,
    'stages.0.0.pos_conv.bias': 1,
    'downsamples.0.0.weight': 1,
    'stages.1.0.attn.qkv.weight': 2,
    'stages.1.1.norm1.weight': 3,
    'downsamples.1.1.bias': 3,
    'stages.3.0.mlp.fc2.weight': 5,
    'out_norms.3.weight': 6,
}


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(32, 2)


def wrapper_cfg(constructor='LayerDecayOptimWrapperConstructor', **paramwise):
    return dict(
        optimizer=dict(OPTIMIZER),
        constructor=constructor,
        paramwise_cfg=dict(layer_decay_rate=RATE, **paramwise),
    )


def settings(model, cfg):
    """The settings of each parameter's group, by name."""
    wrapper = build_optim_wrapper(model, ConfigDict(cfg))
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for param in group['params']:
            found[names[id(param)]] = group
    assert len(found) == sum(p.requires_grad for p in model.parameters())
    return found


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_depths(prefix):
    backbone = BiFormer(ARCH)
    for name, depth in DEPTHS.items():
        assert backbone.get_layer_depth(prefix + name, prefix) == (depth, 7)
    assert backbone.get_layer_depth('decode_head.stem.weight', 'backbone.') == (6, 7)


def test_depths_of_stages_that_are_built():
    backbone = BiFormer(ARCH, out_indices=(1,))
    assert backbone.get_layer_depth('stages.1.1.norm1.weight') == (3, 5)
    assert backbone.get_layer_depth('out_norms.1.weight') == (4, 5)


def test_rates_fall_with_the_depth():
    found = settings(Model(BiFormer(ARCH)), wrapper_cfg())
    for name, depth in DEPTHS.items():
        group = found[f'backbone.{name}']
        assert group['lr'] == pytest.approx(LR * RATE ** (6 - depth))
        assert group['lr_scale'] == pytest.approx(RATE ** (6 - depth))
    assert found['head.weight']['lr'] == LR


def test_other_settings_are_those_of_the_default_constructor():
    """Rates multiply; decay of weights is the same."""
    model = Model(BiFormer(ARCH, frozen_stages=1))
    paramwise = dict(norm_decay_mult=0.0, custom_keys={'attn': dict(lr_mult=0.1, decay_mult=0.5)})
    found = settings(model, wrapper_cfg(**paramwise))
    plain = DefaultOptimWrapperConstructor(dict(optimizer=dict(OPTIMIZER)), paramwise)(model)
    assert len(plain.optimizer.param_groups) == len(found)
    assert {group['lr'] for group in plain.optimizer.param_groups} == {LR, LR * 0.1}
    assert {group['weight_decay'] for group in plain.optimizer.param_groups} == {0, 0.025, 0.05}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in plain.optimizer.param_groups:
        ours = found[names[id(group['params'][0])]]
        assert ours['lr'] == pytest.approx(group['lr'] * ours['lr_scale'])
        assert ours['weight_decay'] == group['weight_decay']


@pytest.mark.parametrize(
    'name', ['retinanet_biformer_demo', 'upernet_biformer_demo', 'biformer_demo']
)
def test_configs_of_the_frameworks(name):
    cfg = config_checks.load(name)
    model = config_checks.build(cfg)  # sets the scope
    cfg.optim_wrapper.update(wrapper_cfg())
    found = settings(model, cfg.optim_wrapper)
    number = 2 + sum(len(stage) for stage in model.backbone.stages)
    assert found['backbone.stem.0.weight']['lr'] == pytest.approx(LR * RATE ** (number - 1))
    last = f'backbone.stages.{len(model.backbone.stages) - 1}.0.norm1.weight'
    depth = 1 + sum(len(stage) for stage in model.backbone.stages[:-1])
    assert found[last]['lr'] == pytest.approx(LR * RATE ** (number - 1 - depth))
    others = [group for name, group in found.items() if not name.startswith('backbone.')]
    assert others and all(group['lr'] == LR for group in others)


def test_agrees_with_the_constructor_of_mmpretrain():
    cfg = config_checks.load('biformer_demo')
    model = config_checks.build(cfg)
    paramwise = dict(norm_decay_mult=0.0, bias_decay_mult=0.0)
    ours = settings(model, wrapper_cfg(**paramwise))
    theirs = settings(model, wrapper_cfg('LearningRateDecayOptimWrapperConstructor', **paramwise))
    assert len({group['lr'] for group in theirs.values()}) > 4
    for name, group in theirs.items():
        assert ours[name]['lr'] == pytest.approx(group['lr']), name
        assert ours[name]['weight_decay'] == group['weight_decay'], name


def test_a_wrapped_model_and_a_resumed_optimizer():
    model = Model(BiFormer(ARCH))
    wrapped = build_optim_wrapper(nn.DataParallel(model), ConfigDict(wrapper_cfg()))
    resumed = build_optim_wrapper(model, ConfigDict(wrapper_cfg()))
    wrapped.param_groups[0]['lr'] = 7.0
    resumed.load_state_dict(wrapped.state_dict())
    assert resumed.param_groups[0]['lr'] == 7
    scales = [group['lr_scale'] for group in resumed.optimizer.param_groups]
    assert scales == [group['lr_scale'] for group in wrapped.optimizer.param_groups]
    assert min(scales) == pytest.approx(RATE**6)


@pytest.mark.parametrize('rate', [None, 0, 1.5, '0.8', float('nan')])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match=r'layer_decay_rate must be in \(0, 1\]; got'):
        LayerDecayOptimWrapperConstructor(
            dict(optimizer=dict(OPTIMIZER)), dict(layer_decay_rate=rate)
        )


def test_what_is_missing():
    with pytest.raises(ValueError, match='optimizer.lr, which is missing'):
        LayerDecayOptimWrapperConstructor(
            dict(optimizer=dict(type='AdamW')), dict(layer_decay_rate=RATE)
        )
    for model in (nn.Linear(1, 1), Model(nn.Linear(1, 1))):
        with pytest.raises(ValueError, match='get_layer_depth, such as BiFormer; got'):
            build_optim_wrapper(model, ConfigDict(wrapper_cfg()))
