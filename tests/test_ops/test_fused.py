"""The block's kernels against plain PyTorch in fp64: natively on a GPU,
through Triton's interpreter elsewhere."""

import pytest
import torch
from tolerances import relative_rms, tolerances
from torch.utils.flop_counter import FlopCounterMode

from biformer_mm.ops import fused
from biformer_mm.ops.backends import block_reference

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton_depthwise, triton_layer_norm  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAPS = {
    # x, what is added: (N, H, W, C)
    'a remainder of channels': ((2, 3, 5, 24), (2, 3, 5, 24)),
    'several tiles': ((1, 4, 19, 96), (1, 4, 19, 96)),
    'a margin': ((2, 6, 7, 33), (2, 4, 5, 33)),
    'one row of margin': ((1, 5, 4, 16), (1, 4, 4, 16)),
    'a token': ((1, 1, 1, 16), (1, 1, 1, 16)),
}
ATTENTIONS = {
    # N, padded H and W, C; S, heads, H and W, masked, k
    'whole': ((2, 6, 6, 32), (3, 2, 6, 6, False), 2),
    'legacy padding': ((1, 8, 10, 32), (2, 1, 7, 9, False), 2),
    'masked padding': ((1, 8, 10, 32), (2, 1, 7, 9, True), 2),
    'a region without a token': ((1, 9, 9, 16), (3, 1, 5, 9, True), 3),
    'a map that is seen whole': ((2, 6, 6, 32), (3, 2, 5, 6, True), 9),
    'heads of 24': ((1, 4, 6, 48), (2, 2, 4, 6, False), 1),
}
needs_custom_op = pytest.mark.skipif(
    not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4'
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm_case(shape, added=False):
    maps = [draw(*shape, seed=i) for i in range(1 + added)]
    return maps, [1 + 0.1 * draw(shape[-1]), draw(shape[-1], seed=3)], (1e-6,)


def depthwise_case(shapes, size):
    x, added = (draw(*shape, seed=i) for i, shape in enumerate(shapes))
    channels = x.shape[-1]
    weights = [draw(channels, 1, size, size) / size, draw(channels, seed=3)]
    return [x, added], weights, ()


def attention_case(case):
    (n, height, width, channels), settings, topk = case
    regions, heads, *size, masked = settings
    weights = [draw(channels, 1, 5, 5) / 5, draw(channels, seed=3)]
    index = (
        torch.rand(n, regions**2, regions**2, generator=torch.Generator().manual_seed(4))
        .topk(topk)
        .indices
    )
    return (
        [draw(n, height, width, 3 * channels)],
        [*weights, index],
        (regions, heads, 0.3, *size, masked),
    )


def arguments(name, maps, weights):
    """In the op's order: what is added to a convolution comes last."""
    if name == 'add_depthwise':
        return [maps[0], *weights, maps[1]]
    return [*maps, *weights]


def run(module, name, case, maps_in, weights_in=torch.float32, device=DEVICE):
    """Results and gradients, of a loss that weighs all results differently."""
    maps, weights, settings = case
    maps = [x.to(maps_in) for x in maps]
    weights = [x.to(weights_in) if x.is_floating_point() else x for x in weights]
    tensors = [
        x.to(device).requires_grad_(x.is_floating_point()) for x in arguments(name, maps, weights)
    ]
    results = getattr(module, name)(*tensors, *settings)
    results = results if isinstance(results, tuple) else (results,)
    douts = [draw(*x.shape, seed=10 + i).to(x) for i, x in enumerate(results)]
    leaves = [x for x in tensors if x.requires_grad]
    grads = torch.autograd.grad(results, leaves, douts)
    assert [x.dtype for x in grads] == [x.dtype for x in leaves]
    assert all(x.dtype == maps_in for x in results)
    return [x.detach().cpu() for x in (*results, *grads)]


def assert_right(name, case, dtype):
    """Maps in a dtype, weights in fp32, as under autocast."""
    rounded = [x.to(dtype) for x in case[0]], *case[1:]
    found = run(fused, name, rounded, dtype)
    exact = run(block_reference, name, rounded, torch.float64, torch.float64, 'cpu')
    for i, (x, y, limit) in enumerate(zip(found, exact, limits(name, dtype, len(found)))):
        error = relative_rms(x, y)
        assert error <= limit, f'{i} of {name}: {error:.1e}, not {limit:.0e}'


def limits(name, dtype, number):
    output, gradient = tolerances('triton', 'cuda', dtype)
    return [output, *[gradient] * (number - 1)]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('channels', [16, 33, 96, 2100])
def test_layer_norm(channels, dtype):
    assert_right('layer_norm', norm_case((2, 3, 5, channels)), dtype)


@pytest.mark.parametrize('dtype', DTYPES)
def test_layer_norm_of_a_sum(dtype):
    assert_right('add_layer_norm', norm_case((2, 3, 5, 48), True), dtype)


def test_layer_norm_far_from_zero():
    """The variance is of the differences from the mean, not of squares."""
    maps, weights, settings = norm_case((1, 2, 2, 64))
    case = [maps[0] + 1000], weights, settings
    found = run(fused, 'layer_norm', case, torch.float32)
    exact = run(block_reference, 'layer_norm', case, torch.float64, torch.float64, 'cpu')
    assert relative_rms(found[0], exact[0]) <= 1e-4


def test_layer_norm_of_many_tokens(monkeypatch):
    """More tiles than programs of the backward pass."""
    monkeypatch.setattr(triton_layer_norm, 'MAX_PROGRAMS', 2)
    assert_right('layer_norm', norm_case((2, 11, 9, 40)), torch.float32)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('size', [3, 5])
@pytest.mark.parametrize('shapes', MAPS)
def test_depthwise(shapes, size, dtype):
    assert_right('add_depthwise', depthwise_case(MAPS[shapes], size), dtype)


def test_depthwise_of_many_rows(monkeypatch):
    """More rows than partial sums of the weight's gradient."""
    monkeypatch.setattr(triton_depthwise, 'MAX_PARTS', 3)
    case = depthwise_case(((2, 4, 6, 40),) * 2, 5)
    assert_right('add_depthwise', case, torch.float32)


def test_depthwise_reads_slices_in_place():
    """Such as the values of a fused projection."""
    maps, weights, _ = depthwise_case(((2, 4, 5, 48), (2, 3, 5, 16)), 5)
    sliced = maps[0].to(DEVICE)[..., 32:]
    weights = [x[:16].to(DEVICE) for x in weights]
    found = fused.add_depthwise(sliced, *weights, maps[1].to(DEVICE))
    exact = block_reference.add_depthwise(sliced, *weights, maps[1].to(DEVICE))
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', ATTENTIONS)
def test_attention_with_lce(case, dtype):
    if dtype == torch.bfloat16 and DEVICE == 'cpu':
        pytest.skip("Triton's interpreter has no bf16 products")
    assert_right('attention_with_lce', attention_case(ATTENTIONS[case]), dtype)


CASES = {
    'layer_norm': norm_case((2, 3, 5, 24)),
    'add_layer_norm': norm_case((2, 3, 5, 24), True),
    'add_depthwise': depthwise_case(MAPS['a margin'], 3),
    'attention_with_lce': attention_case(ATTENTIONS['legacy padding']),
}


@pytest.mark.parametrize('name', CASES)
def test_equal_bit_for_bit_and_nothing_is_left_unwritten(name):
    """Twice the same, with nan in all memory that is not filled."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first, second = (run(fused, name, CASES[name], torch.float32) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for x, y in zip(first, second):
        assert x.isfinite().all() and torch.equal(x, y)


@needs_custom_op
@pytest.mark.parametrize('name', CASES)
def test_is_well_registered(name):
    """Schema, shapes, strides and autograd, by PyTorch's own check."""
    maps, weights, settings = CASES[name]
    tensors = [
        x.to(DEVICE).requires_grad_(x.is_floating_point()) for x in arguments(name, maps, weights)
    ]
    torch.library.opcheck(getattr(torch.ops.biformer_mm, name).default, (*tensors, *settings))


@needs_custom_op
@pytest.mark.parametrize('name', CASES)
def test_a_compiled_graph_holds_the_op(name):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    maps, weights, settings = CASES[name]
    tensors = [x.to(DEVICE) for x in arguments(name, maps, weights)]
    function = getattr(fused, name)
    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    found = compiled(*tensors, *settings)
    torch.testing.assert_close(found, function(*tensors, *settings))
    (graph,) = graphs
    assert f'biformer_mm.{name}' in graph.code


@needs_custom_op
@pytest.mark.parametrize('name', ['add_depthwise', 'attention_with_lce'])
def test_as_many_flops_as_of_pytorch(name):
    """But for the gradients of softmax's weights, which attention computes
    anew: five products in the place of four."""
    counts = []
    for module in (fused, block_reference):
        maps, weights, settings = (
            CASES['add_depthwise']
            if (name == 'add_depthwise')
            else attention_case(ATTENTIONS['whole'])
        )
        if name == 'add_depthwise':  # the reference computes the margin, too
            maps = [maps[0], draw(*maps[0].shape)]
        tensors = [x.to(DEVICE) for x in arguments(name, maps, weights)]
        with FlopCounterMode(display=False) as counter:
            getattr(module, name)(*tensors, *settings)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


class TestWhoIsServed:
    def test_nobody_on_a_cpu(self):
        x = torch.zeros(1, 2, 2, 16)
        for reason in (
            fused.unsupported_reason(x),
            fused.norm_reason(x),
            fused.depthwise_reason(x, x),
            fused.routing_reason(x.view(1, 1, 1, 2, 2, 16), x.view(1, 1, 1, 2, 2, 16)),
        ):
            assert 'not on cpu' in reason
