"""What each attention sees, against sets of tokens that are written down by hand."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from biformer_mm.models.layers import ATTENTIONS, ROUTING, build_attention
from biformer_mm.models.layers.attention import BiLevelRoutingAttention, FullAttention
from biformer_mm.models.layers.full import GlobalAttention
from biformer_mm.visualization.attention_patterns import (
    COLORS,
    attention_patterns,
    draw_patterns,
    map_side,
    token_weights,
)

QUERY = (12, 9)  # row and column on the 28 x 28 tokens of stage 2


def all_tokens(dr, dc, r, c):
    return True


def window(dr, dc, r, c):
    return r // 7 == 12 // 7 and c // 7 == 9 // 7


# Whether the query at (12, 9) sees the token in row r and column c, dr rows and dc columns away.
BY_HAND = {
    'full': [all_tokens],
    'sliding_window': [lambda dr, dc, r, c: max(abs(dr), abs(dc)) <= 3],
    'shifted_window': [
        window,
        lambda dr, dc, r, c: (r - 3) // 7 == (12 - 3) // 7 and (c - 3) // 7 == (9 - 3) // 7,
    ],
    'spatially_separable': [window, all_tokens],
    'sequential_axial': [all_tokens],
    'criss_cross': [lambda dr, dc, r, c: dr == 0 or dc == 0],
    'cross_shaped_window': [lambda dr, dc, r, c: r // 2 == 12 // 2 or c // 2 == 9 // 2],
    'block_grid': [window, lambda dr, dc, r, c: dr % 4 == 0 and dc % 4 == 0],
    'quadtree': [all_tokens],  # on the coarsest level
}


def seen_by_hand(sees):
    row, col = QUERY
    return np.array([[sees(r - row, c - col, r, c) for c in range(28)] for r in range(28)])


@pytest.fixture(scope='module')
def patterns():
    """Of all attentions in stage 2."""
    state = torch.get_rng_state()
    found = attention_patterns(2, QUERY)
    assert torch.equal(torch.get_rng_state(), state)
    return found


@pytest.fixture(scope='module')
def two_colors():
    """A picture, the three left columns of regions of which are red and the others blue."""
    picture = np.zeros((56, 56, 3), np.uint8)
    picture[:, :24, 0] = picture[:, 24:, 2] = 255
    return picture


def test_all_attentions_have_a_pattern(patterns):
    assert list(patterns) == [ROUTING, *ATTENTIONS]


@pytest.mark.parametrize('name', BY_HAND)
def test_seen_tokens_are_those_by_hand(name, patterns):
    assert len(patterns[name]) == len(BY_HAND[name])
    for weights, sees in zip(patterns[name], BY_HAND[name]):
        np.testing.assert_array_equal(weights > 0, seen_by_hand(sees))


def test_windows_that_cover_the_map_are_not_shifted():
    (weights,) = attention_patterns(4, (2, 3))['shifted_window']
    assert weights.shape == (7, 7) and (weights > 0).all()


def test_routing_sees_whole_regions_of_the_colour_of_the_query(two_colors):
    (weights,) = attention_patterns(2, (13, 5), two_colors)[ROUTING]
    regions = (weights > 0).reshape(7, 4, 7, 4).transpose(0, 2, 1, 3).reshape(7, 7, 16)
    assert np.count_nonzero(regions.all(axis=-1)) == np.count_nonzero(regions.any(axis=-1)) == 4
    assert not regions[:, 3:].any()


def test_local_context_enhancement_is_not_seen(two_colors):
    torch.manual_seed(0)
    layer = BiLevelRoutingAttention(32, 1, 7, topk=1)
    features = torch.randn(28, 28, 16)
    features[13, 5] = 0
    features[16:20, 8:12] = 9 * features[12:16, 4:8].mean((0, 1))  # whom the query's region likes
    seen = token_weights(layer, features, (13, 5)) > 0
    assert np.count_nonzero(seen) == 16 and not seen[13, 5]


def test_deformable_sees_the_tokens_around_its_points():
    layer = build_attention('deformable', 64, 2, 1, 0, {})
    with torch.no_grad():
        layer.to_offset.weight.zero_()
    weights = token_weights(layer, torch.randn(28, 28, 32), QUERY)
    seen = np.zeros((28, 28), bool)
    places = [(i + 0.5) / 6 * 27 for i in range(7)]  # tokens; the last one is off the map
    for y in places[:-1]:
        for x in places[:-1]:
            seen[int(y) : int(y) + 2, int(x) : int(x) + 2] = True
    np.testing.assert_array_equal(weights > 0, seen)


@pytest.mark.parametrize('kind', [GlobalAttention, FullAttention])  # the latter convolves, too
def test_weights_are_the_attention(kind):
    torch.manual_seed(0)
    layer = kind(16, 1).requires_grad_(False)
    layer.qkv.weight *= 4
    features = torch.randn(9, 9, 8)
    weights = token_weights(layer, features, (2, 3))
    x = torch.zeros(81, 16, dtype=torch.float64)
    x[:, ::2] = features.reshape(81, 8)
    query, key, _ = layer.double().qkv(x).chunk(3, dim=1)
    expected = (key @ query[2 * 9 + 3] / 4).softmax(0).reshape(9, 9)
    np.testing.assert_allclose(weights, expected / expected.max(), atol=1e-5)


def test_figure_has_a_panel_for_each_attention_in_one_size(patterns, two_colors):
    figure = draw_patterns(patterns, QUERY, two_colors)
    figure.draw_without_rendering()
    *panels, legend = figure.axes
    assert [axis.get_title() for axis in panels] == list(patterns)
    assert [text.get_text() for text in legend.get_legend().get_texts()] == [
        'query',
        'seen',
        'in every other block',
    ]
    boxes = np.array([axis.get_window_extent().size for axis in panels])
    np.testing.assert_allclose(boxes, boxes[:1].repeat(len(boxes), 0), rtol=0.01)
    counts = {axis.get_title(): axis.get_xlabel() for axis in panels}
    assert counts['sliding_window'] == '49 of 784 tokens'
    assert counts['spatially_separable'] == '49, then 784 of 784 tokens'


def test_panels_colour_what_is_seen_and_mark_the_query(patterns):
    panel = draw_patterns({'block_grid': patterns['block_grid']}, QUERY).axes[0]
    odd, even = (image.get_array() for image in panel.images)
    for shown, sees, color in zip((even, odd), BY_HAND['block_grid'], COLORS):
        np.testing.assert_array_equal(shown[..., 3] > 0, seen_by_hand(sees))
        np.testing.assert_allclose(shown[..., :3], np.broadcast_to(to_rgb(color), (28, 28, 3)))
    (star,) = panel.lines
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (9.5, 12.5)  # the token's middle
    assert all(tuple(image.get_extent()) == (0, 28, 28, 0) for image in panel.images)


@pytest.mark.parametrize('stage, side', [(1, 56), (2, 28), (3, 14), (4, 7)])
def test_maps_are_those_of_224_pixels(stage, side):
    assert map_side(stage) == side
