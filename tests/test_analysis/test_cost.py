"""Costs by part against counts of the parts alone and by hand."""

import subprocess
import sys

import pytest
import torch
from config_checks import build, load
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from torch import nn

from biformer_mm.analysis.cost import cost_by_part, make_counter, model_cost
from biformer_mm.models.layers.attention import BiLevelRoutingAttention

SIZE = 64, 96
DEMOS = (
    'biformer_demo',
    'retinanet_biformer_demo',
    'mask_rcnn_biformer_demo',
    'semantic_fpn_biformer_demo',
    'upernet_biformer_demo',
)


def multiply_adds(run):
    with torch.no_grad(), make_counter() as counter:
        run()
    return counter.get_total_flops() // 2


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.first_tier(2)
@pytest.mark.parametrize('name', DEMOS)
def test_parts_make_up_the_model(name):
    costs = cost_by_part(load(name), SIZE)
    total = parameters(build(load(name)))
    assert sum(cost.parameters for cost in costs.values()) == total
    assert model_cost(load(name), SIZE) == (
        total,
        sum(cost.multiply_adds for cost in costs.values()),
    )
    assert not any(costs['other'])  # all that is done is some part's


def test_stages_are_as_if_run_alone():
    costs = cost_by_part(load('biformer_demo'), SIZE)
    backbone = build(load('biformer_demo')).backbone.eval()
    image = torch.zeros(1, 3, *SIZE)
    assert costs['stem'][:2] == (
        parameters(backbone.stem),
        multiply_adds(lambda: backbone.stem(image)),
    )
    x = image
    for i, stage in enumerate(backbone.stages):
        entry = backbone.downsamples[i - 1] if i else None
        norm = [backbone.out_norms['3']] if i == 3 else []
        found = multiply_adds(lambda: backbone._run_stage(i, x))
        if i == 0:
            found -= costs['stem'].multiply_adds
        modules = [stage, *norm, *([entry] if entry else [])]
        assert costs[f'stage {i + 1}'][:2] == (parameters(*modules), found)
        with torch.no_grad():
            x = backbone._run_stage(i, x)


def test_activations_are_what_layers_attention_and_routing_put_out():
    """Counted by hooks, layer by layer."""
    size = 64, 128  # S = 4 divides the maps of stages 1 to 3: no padding
    costs = cost_by_part(load('biformer_demo'), size)
    model = build(load('biformer_demo')).eval()
    found = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) or hasattr(module, 'lce'):
            module.register_forward_hook(lambda module, args, out: found.append(out.numel()))
        if isinstance(module, BiLevelRoutingAttention):
            found.append(module.num_regions**4)
    with torch.no_grad():
        model(torch.zeros(1, 3, *size))
    assert sum(cost.activations for cost in costs.values()) == sum(found)


def test_a_convolutional_network_counts_as_by_mmengine():
    """Which counts by another way, a trace."""
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=dict(type='ResNet', depth=18),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', in_channels=512, num_classes=10),
            ),
        )
    )
    costs = cost_by_part(cfg, SIZE)
    found = [name for name, cost in costs.items() if any(cost)]
    assert found == ['backbone', 'head']
    expected = get_model_complexity_info(
        build(Config(dict(cfg))).eval(), (3, *SIZE), show_table=False, show_arch=False
    )
    assert model_cost(cfg, SIZE)[0] == expected['params']
    assert sum(cost.activations for cost in costs.values()) == expected['activations']


def test_heads_of_two_stages_are_counted_by_box():
    cfg = load('mask_rcnn_biformer_demo')
    costs = cost_by_part(cfg, SIZE)
    head = build(cfg).roi_head.bbox_head
    layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert costs['roi_head.bbox_head'].multiply_adds == 1000 * sum(
        m.in_features * m.out_features for m in layers
    )


def test_a_head_for_training_does_nothing():
    cost = cost_by_part(load('upernet_biformer_demo'), SIZE)['auxiliary_head']
    assert cost.parameters and not cost.multiply_adds + cost.activations


def test_formulae_import_without_matplotlib():
    code = (
        'import sys, biformer_mm.analysis.complexity, '
        'biformer_mm.analysis.cost, biformer_mm.analysis.logs; '
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
