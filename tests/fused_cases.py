"""Inputs of the fused ops, and a comparison with plain PyTorch in fp64."""

import torch
from tolerances import relative_rms, tolerances

from biformer_mm.ops import fused
from biformer_mm.ops.backends import block_reference

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
