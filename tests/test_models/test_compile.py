"""The backbone under torch.compile, autocast, checkpointing and deterministic
algorithms, with each backend of the attention."""

import shutil

import pytest
import torch

from biformer_mm.models import BiFormer
from biformer_mm.models.layers.attention import BiLevelRoutingAttention
from biformer_mm.ops import available_backends
from biformer_mm.ops.dispatch import _BACKENDS

needs_compile = pytest.mark.skipif(
    not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4'
)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
BACKENDS = [name for name in available_backends() if name != 'cpu' or DEVICE == 'cpu'] + ['auto']
ARCH = dict(
    embed_dims=(16, 32, 32, 32),
    depths=(1, 1, 1, 1),
    topks=(1, 2, 4, None),
    mlp_ratio=2,
    head_dim=16,
    stem='conv',
    pos_conv=True,
)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every backend, unless the packages are too old for it."""
    name = request.param
    reason = name != 'auto' and _BACKENDS[name].unsupported_reason(
        torch.zeros(1, 16, device=DEVICE), 1
    )
    if reason:
        pytest.skip(reason)
    return name


def make(backend, **options):
    torch.manual_seed(0)
    model = BiFormer(ARCH, num_regions=3, attn_backend=backend, out_indices=(2, 3), **options)
    return model.to(DEVICE).eval()


def make_image():
    """One whose maps 3 does not divide."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 40, 56, generator=generator).to(DEVICE)


def weigh(out):
    """A loss to which every output matters, and differently."""
    weights = torch.arange(out.numel(), device=out.device).sin()
    return (out.float().flatten() * weights).mean()


def run(model, image, call=None):
    """Outputs and gradients, by name."""
    model.zero_grad()
    outs = model(image) if call is None else call(image)
    sum(weigh(out) for out in outs).backward()
    found = {f'out {i}': out.detach() for i, out in enumerate(outs)}
    found.update(
        (name, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None
    )
    return found


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=lambda m: f'{name}: {m}', **tolerance)


@pytest.mark.first_tier(3)
@needs_compile
@pytest.mark.parametrize('padding', ['legacy', 'masked'])
def test_compiles_without_a_graph_break(backend, padding):
    model, image = make(backend, padding=padding), make_image()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    assert_close(run(model, image, compiled), run(model, image), rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'), reason='PyTorch before 2.6')
@pytest.mark.parametrize('name', ['sdpa', 'reference'])
def test_sizes_can_be_dynamic(name):
    """One graph serves maps of several sizes, and layers of several scales."""
    graphs = []

    def record(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    layers = [
        BiLevelRoutingAttention(dims, num_heads=2, num_regions=3, topk=2, attn_backend=name)
        for dims in (16, 32)
    ]
    attend = torch.compile(lambda layer, x: layer(x), fullgraph=True, dynamic=True, backend=record)
    with torch.no_grad():
        for height, width in (22, 25), (34, 28), (40, 31):
            for layer in layers:
                x = torch.randn(2, height, width, layer.proj.in_features, device=DEVICE)
                layer.to(DEVICE)
                torch.testing.assert_close(attend(layer, x), layer(x))
    assert len(graphs) == len(layers)


@pytest.mark.first_tier(1)
@needs_compile
@pytest.mark.skipif(
    DEVICE == 'cpu' and not (shutil.which('g++') or shutil.which('clang++')),
    reason='needs a C++ compiler',
)
@pytest.mark.parametrize('name', ['triton', 'reference'])
def test_inductor_gives_the_eager_result(name):
    """On one layer, as a backbone takes it minutes on a CPU."""
    if name not in BACKENDS:
        pytest.skip('needs Triton')
    torch.manual_seed(0)
    layer = BiLevelRoutingAttention(16, num_heads=1, num_regions=2, topk=2, attn_backend=name)
    x = torch.randn(1, 4, 6, 16, device=DEVICE)
    layer.to(DEVICE)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))


@needs_compile
@pytest.mark.skipif('triton' not in BACKENDS, reason='needs Triton')
def test_is_one_node_of_the_graph():
    """No detail of the kernels' launch is traced."""
    seen = []

    def look(graph, _):
        seen.extend(
            str(node.target) for node in graph.graph.nodes if 'biformer_mm' in str(node.target)
        )
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(make('triton'), fullgraph=True, backend=look)(make_image())
    routed, full = 'attention_with_lce', 'region_attention'
    assert seen == [f'biformer_mm.{op}.default' for op in (routed, routed, routed, full)]


@pytest.mark.slow
def test_checkpointing_changes_nothing(backend):
    image = make_image()
    found = run(make(backend, with_cp=True), image)
    assert_close(found, run(make(backend), image), rtol=0, atol=0)


@pytest.mark.slow
def test_autocast(backend):
    """Half precision comes close to fp32, gradients in fp32 included."""
    # Triton's interpreter has no bf16 products.
    dtype = torch.float16 if backend == 'triton' else torch.bfloat16
    model, image = make(backend), make_image()
    reason = backend != 'auto' and _BACKENDS[backend].unsupported_reason(
        torch.zeros(1, 1, 1, 1, 1, 16, dtype=dtype, device=DEVICE), 1
    )
    if reason:
        pytest.skip(reason)
    with torch.autocast(DEVICE, dtype):
        found = run(model, image)
    expected = run(model, image)
    for name, value in found.items():
        assert value.dtype == torch.float32 or name.startswith('out'), name
        error = (value.float() - expected[name]).norm()
        # What has hardly a gradient, as biases of keys, has hardly an error.
        assert error <= 0.1 * expected[name].norm() + 1e-3, name


@pytest.mark.slow
def test_deterministic_algorithms(backend):
    """PyTorch objects to nothing, and twice gives the same bit for bit."""
    model, image = make(backend, padding='masked'), make_image()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run(model, image), run(model, image)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(first, second, rtol=0, atol=0)


def test_inference(backend):
    model, image = make(backend), make_image()
    expected = [out.detach() for out in model(image)]
    for mode in torch.no_grad, torch.inference_mode:
        with mode():
            for out, same in zip(model(image), expected):
                assert torch.equal(out, same) and not out.requires_grad


@pytest.mark.slow
def test_used_twice_in_one_graph(backend):
    """The gradient of f(x) + f(2 x) is the sum of both gradients."""
    model, image = make(backend), make_image()

    def gradient(*factors):
        x = image.clone().requires_grad_()
        sum(weigh(out) for factor in factors for out in model(factor * x)).backward()
        return x.grad

    torch.testing.assert_close(
        gradient(1.0, 2.0), gradient(1.0) + gradient(2.0), rtol=1e-4, atol=1e-6
    )
