import pytest
from rule_checks import DETECTOR, SEGMENTOR, assert_one_line, load, problems

from biformer_mm.engine.config_rules import check_config

# As configs of ConvNeXt have it.
PARAMWISE = dict(decay_rate=0.95, decay_type='layer_wise', num_layers=6)


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTOR])
@pytest.mark.parametrize('scope', ['', 'mmdet.', 'mmseg.'])
def test_layer_decay_of_the_frameworks_is_refused(name, scope):
    constructor = f'{scope}LearningRateDecayOptimizerConstructor'
    wrapper = dict(constructor=constructor, paramwise_cfg=PARAMWISE)
    [problem] = problems(name, dict(optim_wrapper=wrapper))
    assert (problem.kind, problem.file) == ('layer-decay', 'optim_wrapper.constructor')
    assert problem.severity == 'error'
    assert_one_line(problem)
    cure = dict(part.split('=') for part in problem.detail.split() if '=' in part)
    assert not problems(name, {k: float(v) if 'rate' in k else v for k, v in cure.items()})


def test_layer_decay_that_works_is_allowed():
    cfg = load(DETECTOR)
    cfg.optim_wrapper.update(
        constructor='LearningRateDecayOptimizerConstructor', paramwise_cfg=PARAMWISE
    )
    assert not list(check_config(cfg, ['val']))  # no training
    cfg.model.backbone = dict(type='mmpretrain.ConvNeXt')
    assert not list(check_config(cfg, ['train']))


def test_constructors_of_the_rule_are_those_of_the_frameworks():
    """They refuse the backbone, without a reason."""
    from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS
    from torch import nn

    from biformer_mm.models import BiFormer

    model = nn.Module()
    model.backbone = BiFormer(dict(base='stl', depths=(1, 1, 1, 1)), out_indices=(0,))
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
    for scope in ('mmdet', 'mmseg'):
        __import__(f'{scope}.engine')
        build = OPTIM_WRAPPER_CONSTRUCTORS.get(f'{scope}.LearningRateDecayOptimizerConstructor')
        with pytest.raises(NotImplementedError):
            build(wrapper, PARAMWISE)(model)
