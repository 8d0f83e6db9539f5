"""The formulas against what PyTorch counts in its own ops."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from biformer_mm.ops import available_backends, flops, partition, region_attention


def count(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.skipif(not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4')
@pytest.mark.parametrize(
    'backend', [name for name in available_backends() if name in ('cpu', 'triton')]
)
def test_pytorch_counts_the_op_as_its_own_attention(backend):
    """Two products forward, five backward, of queries with routed keys."""
    n, s, tokens, channels, topk = 2, 3, 6, 32, 4
    qkv = [partition(torch.randn(n, 2 * s, 3 * s, channels), s).requires_grad_() for _ in range(3)]
    index = torch.rand(n, s * s, s * s).topk(topk).indices
    product = 2 * n * s**2 * tokens * topk * tokens * channels

    def forward():
        return region_attention(*qkv, index, num_heads=2, scale=1.0, backend=backend)

    assert count(forward) == 2 * product
    out = forward().sum()
    assert count(out.backward) == 5 * product


@pytest.mark.parametrize('size', [3, 5])
def test_depthwise_is_a_grouped_convolution(size):
    n, height, width, channels = shape = 2, 5, 7, 6
    x, weight = torch.randn(n, channels, height, width), torch.randn(channels, 1, size, size)
    expected = count(lambda: F.conv2d(x, weight, padding=size // 2, groups=channels))
    assert flops.depthwise(shape, tuple(weight.shape)) == expected


def test_routing_is_the_product_of_the_means():
    n, sh, sw, _, _, channels = shape = 2, 3, 4, 5, 6, 8
    means = torch.randn(n, sh * sw, channels)
    assert flops.routing(shape) == count(lambda: means @ means.mT)
