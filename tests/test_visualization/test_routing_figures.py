"""What the panels show, read back from the figure."""

import golden
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from biformer_mm.models import BiFormer
from biformer_mm.visualization import record_routing, routing_figures

QUERIES = [(40, 33), (90, 61)]


@pytest.fixture(scope='module')
def picture():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    return BiFormer(golden.small_arch()[0], num_regions=(3, 3, 4, 3))


def record(backbone, stage):
    """Of an image that is padded at the right and at the bottom."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 68, 100, generator=generator)
    (routing,) = record_routing(backbone, image, stage)
    return routing


@pytest.fixture(scope='module')
def drawn(picture, backbone):
    """Routing and panels, the second query's last."""
    routing = record(backbone, 2)
    figure = routing_figures.draw_routing(picture, routing, QUERIES)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == 3 * len(QUERIES)
    return routing, figure, panels


def boxes(axis):
    return [
        (p.get_x(), p.get_y(), p.get_width(), p.get_height())
        for p in axis.patches
        if isinstance(p, Rectangle)
    ]


def box_of(routing, region):
    left, top, right, bottom = routing.region_box(region)
    return left, top, right - left, bottom - top


def test_title_names_stage_block_s_and_k(drawn):
    routing, figure, _ = drawn
    assert figure.get_suptitle() == (
        f'stage 2, block {routing.block} of {routing.num_blocks}: S = 3, '
        f'k = {routing.topk}, regions of 3 x 5 tokens'
    )


@pytest.mark.parametrize('i', [0, 1])
def test_query_panel_marks_the_query_and_its_region(drawn, picture, i):
    routing, _, panels = drawn
    panel = panels[3 * i]
    np.testing.assert_array_equal(panel.images[0].get_array(), picture)
    (star,) = panel.lines
    assert (star.get_xdata()[0], star.get_ydata()[0]) == QUERIES[i]
    x, y = QUERIES[i]
    region = y // 24 * 3 + x // 40  # of 3 x 5 tokens, 8 pixels each
    assert boxes(panel) == [box_of(routing, region)]


@pytest.mark.parametrize('i', [0, 1])
def test_regions_panel_outlines_and_numbers_the_routed_regions(drawn, i):
    routing, _, panels = drawn
    panel = panels[3 * i + 1]
    x, y = QUERIES[i]
    region = y // 24 * 3 + x // 40
    routed = routing.index[region].tolist()
    assert sorted(boxes(panel)) == sorted(box_of(routing, r) for r in (*routed, region))
    assert sorted(t.get_text() for t in panel.texts) == sorted(
        str(rank + 1) for rank in range(len(routed))
    )
    for text in panel.texts:
        left, top, right, bottom = routing.region_box(routed[int(text.get_text()) - 1])
        x, y = text.get_position()
        assert left <= x <= right and top <= y <= bottom
    assert f'{routing.strength[region, 0]:.0%}' in panel.get_title()


@pytest.mark.parametrize('i', [0, 1])
def test_heat_panel_shows_each_token_where_it_is(drawn, picture, i):
    routing, _, panels = drawn
    x, y = QUERIES[i]
    expected = routing.heat_map(y // 8, x // 8).mean(axis=0)
    shown = panels[3 * i + 2].images[1].get_array().filled(0)
    assert shown.shape == picture.shape[:2]
    for row in range(shown.shape[0]):
        np.testing.assert_array_equal(
            shown[row], expected[row // 8, np.arange(shown.shape[1]) // 8]
        )


@pytest.mark.parametrize('i', [0, 1, 2])
def test_pixels_lie_where_boxes_and_queries_count_them(drawn, picture, i):
    height, width = picture.shape[:2]
    for image in drawn[2][i].images:
        assert tuple(image.get_extent()) == (0, width, height, 0)


def test_what_lies_off_the_picture_is_counted(backbone, picture):
    """Of the input, the picture covers a region alone; the title tells where
    the rest of the attention is."""
    routing = record(backbone, 2)
    figure = routing_figures.draw_routing(picture[:24, :40], routing, [(3, 3)])
    routed = routing.index[0].tolist()
    outside = len(set(routed) - {0})
    assert f'; {outside} off the picture' in figure.axes[1].get_title()
    on_picture = routing.heat_map(0, 0).mean(axis=0)[:3, :5].sum()
    heat = figure.axes[2]
    assert f'; {1 - on_picture:.0%} off the picture' in heat.get_title()
    assert heat.images[1].get_clim()[0] == 0 < heat.images[1].get_clim()[1]


@pytest.mark.parametrize('size', [(64, 96), (24, 40), (300, 20), (20, 900)])
def test_titles_are_whole_and_apart(backbone, size):
    generator = torch.Generator().manual_seed(0)
    side = [max(length, 32) for length in size]
    image = torch.randn(1, 3, *side, generator=generator)
    (routing,) = record_routing(backbone, image, 3)
    figure = routing_figures.draw_routing(np.zeros((*size, 3), np.uint8), routing, [(3, 3)])
    width = routing_figures.to_array(figure).shape[1]
    spans = [axis.title.get_window_extent() for axis in figure.axes[:3]]
    edges = [x for span in spans for x in (span.x0, span.x1)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= width


def test_numbers_that_cannot_be_read_are_left_out(backbone):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 32, 3200, generator=generator)
    (routing,) = record_routing(backbone, image, 2)
    figure = routing_figures.draw_routing(np.zeros((32, 3200, 3), np.uint8), routing, [(3, 3)])
    assert not figure.axes[1].texts
    assert boxes(figure.axes[1])


def test_full_attention_is_said_to_have_no_regions(backbone, picture):
    figure = routing_figures.draw_routing(picture, record(backbone, 4), QUERIES[:1])
    assert figure.get_suptitle().endswith(': full attention, 3 x 4 tokens')
    regions = figure.axes[1]
    assert regions.get_title() == 'full attention: no regions'
    assert not regions.texts


def test_other_attention_is_drawn_as_a_heat_map(picture):
    torch.manual_seed(0)
    arch = dict(base='stl', embed_dims=(32,) * 4, depths=(1,) * 4, attention='shifted_window')
    routing = record(BiFormer(arch), 2)
    figure = routing_figures.draw_routing(picture, routing, QUERIES[:1])
    assert figure.get_suptitle().endswith(': shifted window attention, 8 x 12 tokens')
    assert figure.axes[1].get_title() == 'shifted window attention: no regions'
    shown = figure.axes[2].images[1].get_array().filled(0) > 0
    expected = np.zeros_like(shown)
    expected[:56, :56] = True  # the window of 7 x 7 tokens, 8 pixels each
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize('colors', [routing_figures.RANK_COLORS, routing_figures.HEAT_COLORS])
def test_colors_rise_in_lightness(colors):
    """So that they are told apart in grey."""
    luminance = [np.dot(to_rgb(colors(x)), (0.2126, 0.7152, 0.0722)) for x in np.linspace(0, 1, 17)]
    assert (np.diff(luminance) > 0).all()


def test_figure_to_array(drawn):
    figure = drawn[1]
    array = routing_figures.to_array(figure, dpi=50)
    width, height = figure.get_size_inches() * 50
    assert array.dtype == np.uint8
    np.testing.assert_allclose(array.shape, (height, width, 3), atol=1)
    assert len(np.unique(array)) > 100
