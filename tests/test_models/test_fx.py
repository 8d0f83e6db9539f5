"""The backbone in torch.fx, and in torchvision's feature extractor, which is built on it."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn

from biformer_mm.models import BiFormer
from biformer_mm.models.layers import ATTENTIONS, ROUTING

ARCH = dict(base='small', embed_dims=(16, 16, 32, 32), depths=(1, 1, 2, 1), head_dim=8)
SMALL = dict(base='stl', embed_dims=(16, 32, 64, 96), depths=(2, 2, 2, 2), head_dim=16)
# The others branch on sizes, or ask for values.
TRACEABLE = {ROUTING, 'full', 'sequential_axial'}
if torch.__version__ >= '2.6':  # 2.1 makes no identity matrix of a symbolic size
    TRACEABLE.add('criss_cross')
SIZES = [(2, 3, 64, 96), (3, 3, 80, 75)]  # S = 4 divides maps of the first, not of the second


def build(**options):
    torch.manual_seed(0)
    return BiFormer(**{'arch': ARCH, 'num_regions': 4, **options})


def outputs_and_gradients(net, size):
    torch.manual_seed(1)
    x = torch.randn(size, requires_grad=True)
    net.zero_grad()
    maps = net(x)
    sum(map_.square().mean() for map_ in maps).backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return [x.grad, *maps], gradients


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(
    'options', [dict(), dict(padding='masked'), dict(num_regions='auto'), dict(with_cp=True)]
)
@pytest.mark.parametrize('training', [True, False])
def test_graph_computes_the_same_at_any_size(size, options, training):
    """Also gradients, and with the same random numbers."""
    model = build(drop_path_rate=0.3, **options).train(training)
    graph = fx.symbolic_trace(model)
    found, found_gradients = outputs_and_gradients(graph, size)
    expected, gradients = outputs_and_gradients(model, size)
    torch.testing.assert_close(found, expected)
    for name, gradient in found_gradients.items():
        torch.testing.assert_close(gradient, gradients[name], msg=name)


def test_attention_is_one_node_of_the_graph():
    graph = fx.symbolic_trace(build()).graph
    ours = [
        node.target.__name__
        for node in graph.nodes
        if node.op == 'call_function' and node.target.__module__.startswith('biformer_mm')
    ]
    assert len([name for name in ours if 'attend' in name]) == sum(ARCH['depths'])


def test_graph_can_be_copied_and_pickled():
    model = build().eval()
    graph, x = fx.symbolic_trace(model), torch.randn(SIZES[0])
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize('training', [True, False])
def test_feature_extractor_of_torchvision(training):
    """A stage's name stands for its NCHW map, as with hooks."""
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    model, x = build(drop_path_rate=0.1).train(training), torch.randn(SIZES[0])
    extractor = extraction.create_feature_extractor(model, ['stages.1', 'stages.3'])
    maps = {}
    for i in (1, 3):
        model.stages[i].register_forward_hook(lambda *args, i=i: maps.update({i: args[2]}))
    extractor.train(training)
    torch.manual_seed(1)
    found = extractor(x)
    torch.manual_seed(1)
    model(x)
    assert list(found) == ['stages.1', 'stages.3'] and found['stages.1'].shape == (2, 16, 8, 12)
    for i in (1, 3):
        torch.testing.assert_close(found[f'stages.{i}'], maps[i])


@pytest.mark.parametrize('name', [ROUTING, *ATTENTIONS])
def test_attentions_that_can_be_traced(name):
    """As docs/other_networks.md lists them."""
    model = build(arch=dict(SMALL, attention=name), num_regions=None).eval()
    if name not in TRACEABLE:
        with pytest.raises((fx.proxy.TraceError, TypeError)):
            fx.symbolic_trace(model)
        return
    graph = fx.symbolic_trace(model)
    for size in SIZES:
        x = torch.randn(size)
        torch.testing.assert_close(graph(x), model(x))


@pytest.mark.parametrize('name', sorted(set(ATTENTIONS) - TRACEABLE))
def test_other_attentions_as_leaves(name):
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    model = build(arch=dict(SMALL, attention=name), num_regions=None).eval()
    leaves = dict(leaf_modules=[ATTENTIONS[name]])
    graph = extraction.create_feature_extractor(model, ['stages.3'], tracer_kwargs=leaves)
    for size in SIZES:
        x, maps = torch.randn(size), []
        hook = model.stages[3].register_forward_hook(lambda *args, maps=maps: maps.append(args[2]))
        model(x)
        hook.remove()
        torch.testing.assert_close(graph(x)['stages.3'], maps[0])


def test_hooks_see_the_map_of_a_stage():
    model, maps = build(out_norm=None), []
    for stage in model.stages:
        assert isinstance(stage, nn.Sequential)
        stage.register_forward_hook(lambda *args: maps.append(args[2]))
    outs = model(torch.randn(SIZES[0]))
    torch.testing.assert_close(maps, list(outs))
