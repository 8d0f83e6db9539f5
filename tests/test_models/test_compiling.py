"""The backbone compiled block by block."""

import copy
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

from biformer_mm.models import BiFormer
from biformer_mm.models.layers.basic import DropPath
from biformer_mm.visualization.recording import record_routing

needs_26 = pytest.mark.skipif(torch.__version__ < (2, 6), reason='PyTorch before 2.6')
# Two different blocks, with as many channels as the first map is wide.
ARCH = dict(
    embed_dims=(24, 24),
    depths=(2, 2),
    topks=(2, None),
    mlp_ratio=2,
    head_dim=12,
    stem='conv',
    pos_conv=True,
)
# Two sizes whose maps 3 divides, and two whose maps are padded alike.
SIZES = dict(divided=[(2, 3, 96, 96), (3, 3, 48, 144)], padded=[(2, 3, 56, 56), (3, 3, 56, 80)])


@pytest.fixture
def settings():
    """Forgets what was compiled, and puts the process's settings back."""
    from torch._dynamo import config
    from torch.fx.experimental import _config as shapes

    torch._dynamo.reset()
    with config.patch(cache_size_limit=8), shapes.patch(use_duck_shape=True):
        yield config, shapes
    torch._dynamo.reset()


def make(**options):
    torch.manual_seed(0)
    options = dict(dict(num_regions=3, out_indices=(0, 1)), **options)
    return BiFormer(ARCH, **options)


def run(model, image):
    """Outputs and gradients, by name."""
    model.zero_grad()
    outs = model(image)
    sum(out.sin().sum() for out in outs).backward()
    found = {f'out {i}': out.detach() for i, out in enumerate(outs)}
    found.update((name, p.grad) for name, p in model.named_parameters())
    return found


def assert_equals_eager(model, sizes, tolerance, **options):
    """An eager run in fp64 is what is compared with."""
    eager = copy.deepcopy(model).double()
    model.compile_blocks(**options)
    for size in sizes:
        image = torch.randn(size, dtype=torch.double)
        expected = run(eager, image)
        found = run(model, image.to(model.stem[0].weight.dtype))
        for name, value in found.items():
            error = (value - expected[name]).norm()
            # Biases before a batch norm have no gradient but noise.
            assert error <= tolerance * (1 + expected[name].norm()), name


@pytest.mark.first_tier(1)
@needs_26
@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('training', [True, False])
def test_compiles_once_for_equal_blocks_and_all_sizes(settings, sizes, training):
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    model = make(drop_path_rate=0.3).train(training)
    model.compile_blocks(backend=count)
    with torch.set_grad_enabled(training):
        for size in sizes:
            outs = model(torch.randn(size))
            assert len(graphs) == len(ARCH['depths'])
    assert not any(out.isnan().any() for out in outs)


@needs_26
def test_padding_within_and_beyond_the_reach_of_lce(settings):
    """Two tokens; the backend has no other ways for other sizes."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    model = make(num_regions=8, attn_backend='sdpa')
    eager = copy.deepcopy(model)
    model.compile_blocks(backend=count)
    for size in [(2, 3, 56, 56), (3, 3, 40, 72)]:
        image = torch.randn(size)
        for found, expected in zip(model(image), eager(image)):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert len(graphs) == len(ARCH['depths'])


@pytest.mark.slow
@needs_26
def test_routing_of_a_compiled_network(settings):
    """Its hooks come after the graphs."""
    model = make(attn_backend='sdpa').eval()
    image = torch.randn(1, 3, 48, 48)
    expected = [x.index for x in record_routing(model, image)]
    model.compile_blocks(backend=aot_eager)
    model(image)
    found = [x.index for x in record_routing(model, image)]
    assert len(found) == 4
    for x, y in zip(found, expected):
        assert (x == y).all()


@pytest.mark.slow
@needs_26
@pytest.mark.parametrize('with_cp', [False, True])
def test_equals_eager(settings, with_cp):
    assert_equals_eager(
        make(with_cp=with_cp).double(), SIZES['divided'], tolerance=1e-9, backend=aot_eager
    )


@needs_26
@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which('g++') or shutil.which('clang++')), reason='needs a C++ compiler'
)
def test_inductor_equals_eager(settings):
    assert_equals_eager(make(), SIZES['padded'], tolerance=1e-3)


@needs_26
def test_names_in_the_state_dict_stay(settings):
    model = make(drop_path_rate=0.3)
    names = list(model.state_dict())
    model.compile_blocks(backend=aot_eager)
    assert list(model.state_dict()) == names
    model.load_state_dict(make().state_dict())


@needs_26
@pytest.mark.parametrize('limit, expected', [(8, 64), (100, 100)])
def test_settings_of_the_process(settings, limit, expected):
    config, shapes = settings
    config.cache_size_limit = limit
    make().compile_blocks()
    assert config.cache_size_limit == expected
    assert shapes.use_duck_shape is False


@needs_26
@pytest.mark.parametrize(
    'given, inductor',
    [
        (dict(), dict(layout_optimization=False)),
        (dict(options=dict(max_autotune=True)), dict(layout_optimization=False, max_autotune=True)),
        (dict(options=dict(layout_optimization=True)), dict(layout_optimization=True)),
        (dict(mode='reduce-overhead'), {'layout_optimization': False, 'triton.cudagraphs': True}),
    ],
)
def test_options_of_inductor(settings, monkeypatch, given, inductor):
    calls = []
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **options: calls.append(options))
    make().compile_blocks(dynamic=None, **given)
    assert calls == sum(ARCH['depths']) * [dict(fullgraph=True, dynamic=None, options=inductor)]


def test_older_pytorch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, '__version__', torch.torch_version.TorchVersion('2.5.1+cu121'))
    model = make()
    with pytest.raises(RuntimeError, match=r'needs PyTorch 2\.6 or later; got 2\.5\.1'):
        model.compile_blocks()


@pytest.mark.parametrize('rate', [0, 0.25])
def test_drop_path_of_shared_graphs(rate):
    """It drops whole samples, at its rate, and keeps the mean."""
    torch.manual_seed(0)
    layer = DropPath(rate)
    layer.share_graph(torch.device('cpu'))
    x = torch.rand(4000, 2, 3) + 1
    kept = layer(x) / x * (1 - rate)
    torch.testing.assert_close(kept, kept[:, :1, :1].round().expand_as(kept))
    # Three standard deviations of the mean of 4000 draws are 0.02.
    assert kept[:, 0, 0].mean() == pytest.approx(1 - rate, abs=0.02)
    assert torch.equal(layer.eval()(x), x)
