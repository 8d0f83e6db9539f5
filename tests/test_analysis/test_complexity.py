"""The formulae against what PyTorch counts in layers that run."""

import math

import pytest
import torch

from biformer_mm.analysis.complexity import (
    axial_attention,
    best_num_regions,
    full_attention,
    routing_attention,
)
from biformer_mm.analysis.cost import make_counter
from biformer_mm.models.layers.attention import BiLevelRoutingAttention, FullAttention
from biformer_mm.ops import auto_num_regions, available_backends

BACKENDS = [
    name
    for name in available_backends()
    if name not in ('cpu', 'triton') or hasattr(torch.library, 'custom_op')
]


def count(run):
    """Multiply-adds by the names of the ops."""
    with torch.no_grad(), make_counter() as counter:
        run()
    return {
        str(op).partition('.')[2]: flops // 2
        for op, flops in counter.get_flop_counts()['Global'].items()
    }


def count_layer(size, channels, topk, num_regions, backend, **options):
    layer = BiLevelRoutingAttention(channels, 2, num_regions, topk, attn_backend=backend, **options)
    return count(lambda: layer.eval()(torch.randn(1, *size, channels)))


SHAPES = [((14, 14), 32, 4, 7), ((16, 24), 16, 1, 4), ((6, 9), 8, 9, 3)]


@pytest.mark.parametrize('size, channels, topk, num_regions', SHAPES)
def test_each_term_of_equation_8_is_what_a_layer_computes(size, channels, topk, num_regions):
    tokens = math.prod(size)
    found = count_layer(size, channels, topk, num_regions, 'reference')
    terms = routing_attention(*size, channels, topk, num_regions)
    out_projection = tokens * channels**2
    assert found['addmm'] == terms.projection + out_projection
    # Equation 8 has the routing product twice.
    assert found['bmm'] == terms.routing // 2 + terms.attention
    assert found['convolution'] == 25 * tokens * channels  # LCE, left out
    assert set(found) == {'addmm', 'bmm', 'convolution'}


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size, channels, topk, num_regions', SHAPES)
def test_equation_8_is_what_every_backend_counts(size, channels, topk, num_regions, backend):
    found = count_layer(size, channels, topk, num_regions, backend)
    terms = routing_attention(*size, channels, topk, num_regions)
    left_out = math.prod(size) * channels * (channels + 25)
    assert sum(found.values()) == (
        terms.projection + terms.routing // 2 + terms.attention + left_out
    )


@pytest.mark.parametrize('padding', ['legacy', 'masked'])
def test_padding_is_counted(padding):
    """By the projection and the attention of a map that S does not divide."""
    found = count_layer((10, 13), 8, 2, 4, 'reference', padding=padding)
    terms = routing_attention(10, 13, 8, 2, 4)
    assert terms == routing_attention(12, 16, 8, 2, 4)
    assert found['addmm'] == terms.projection + 10 * 13 * 8**2
    assert found['bmm'] == terms.routing // 2 + terms.attention


def test_full_attention_is_what_a_layer_computes():
    layer = FullAttention(16, 2).eval()
    found = count(lambda: layer(torch.randn(1, 6, 9, 16)))
    left_out = 6 * 9 * 16 * (16 + 25)
    assert sum(found.values()) == full_attention(6, 9, 16) + left_out


def test_axial_attention_is_what_a_loop_computes():
    height, width, channels = 5, 7, 8
    x = torch.randn(height, width, channels)
    weight = torch.randn(channels, channels)

    def run():
        q, k, v = ((x.flatten(0, 1) @ weight).view_as(x) for _ in range(3))
        for row in range(height):
            (q[row] @ k[row].T) @ v[row]
        for column in range(width):
            (q[:, column] @ k[:, column].T) @ v[:, column]

    assert sum(count(run).values()) == axial_attention(height, width, channels)


@pytest.mark.parametrize('height, width, topk', [(56, 56, 1), (200, 320, 4), (14, 14, 16)])
def test_equation_9_minimises_equation_8(height, width, topk):

    def cost(s):
        return 2 * s**4 + 2 * topk * (height * width) ** 2 / s**2

    best = best_num_regions(height, width, topk)
    assert cost(best) < min(cost(best * 1.001), cost(best / 1.001))


def test_costs_grow_as_the_paper_says():
    """Without the projections, from a map to one of 16 times its tokens."""
    for size, larger in ((256, 1024), (512, 2048)):
        found = []
        for side in (size, larger):
            regions = auto_num_regions(side, side, 64, 4)
            terms = routing_attention(side, side, 64, 4, regions)
            found.append(
                [
                    terms.total - terms.projection,
                    axial_attention(side, side, 64) - 3 * side**2 * 64**2,
                    full_attention(side, side, 64) - 3 * side**2 * 64**2,
                ]
            )
        slopes = [math.log(b / a) / math.log(16) for a, b in zip(*found)]
        assert slopes == pytest.approx([4 / 3, 3 / 2, 2], abs=0.02)


def test_more_routed_regions_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r'num_regions\*\*2; got topk=5 with'):
        routing_attention(8, 8, 16, 5, 2)
