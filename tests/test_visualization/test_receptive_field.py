"""Receptive fields against differences of outputs, and against a field known by hand."""

import numpy as np
import pytest
import torch

from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError
from biformer_mm.visualization.receptive_field import draw_field, receptive_field, share_of_half

ARCH = dict(base='stl', embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), head_dim=4, mlp_ratio=1)


def network(attention, **options):
    torch.manual_seed(0)
    return BiFormer(dict(ARCH, attention=attention), **options)


def test_windows_of_one_token_see_the_patch_of_the_centre():
    backbone = network(dict(type='shifted_window', window_size=1))
    field = receptive_field(backbone, [torch.randn(1, 3, 96, 160) for _ in range(2)])
    expected = np.zeros((96, 160), bool)
    expected[32:64, 64:96] = True  # token (1, 2) of 3 x 5, 32 pixels each
    np.testing.assert_array_equal(field > 0, expected)
    assert field.max() == 1


def test_field_is_the_mean_of_absolute_differences():
    backbone = network('full').double().eval()
    images = [torch.randn(1, 3, 64, 64, dtype=torch.float64) for _ in range(2)]
    field = receptive_field(backbone, images)
    generator, step = torch.Generator().manual_seed(0), 1e-5
    pixels = [(0, 0), (20, 45), (40, 40), (63, 10)]
    expected = np.zeros(len(pixels))
    with torch.no_grad():
        for image in images:
            signs = torch.randint(2, (8,), generator=generator) * 2.0 - 1
            for i, (row, col) in enumerate(pixels):
                for color in range(3):
                    moved = image.repeat(2, 1, 1, 1)
                    moved[:, color, row, col] += torch.tensor([step, -step], dtype=torch.float64)
                    more, less = (backbone(moved)[-1][:, :, 1, 1] @ signs.double()).tolist()
                    expected[i] += abs(more - less) / (2 * step)
    found = np.array([field[place] for place in pixels])
    np.testing.assert_allclose(found / found[2], expected / expected[2], rtol=1e-5)


def test_mode_and_gradients_are_left_as_they_were():
    backbone = network('full').train()
    backbone.stages[0].eval()  # frozen by hand
    modes = [module.training for module in backbone.modules()]
    with torch.no_grad():
        receptive_field(backbone, [torch.randn(1, 3, 64, 64)])
    assert [module.training for module in backbone.modules()] == modes
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_images_of_other_sizes_are_refused():
    images = [torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 96)]
    with pytest.raises(UsageError, match=r'one size .* got \(64, 64\) and \(64, 96\)'):
        receptive_field(network('full'), images)


@pytest.mark.parametrize(
    'field, share', [(np.ones((10, 10)), 0.5), (np.diag([1, 1, 5, 1.0]), 1 / 16)]
)
def test_share_of_the_pixels_that_has_half(field, share):
    assert share_of_half(field) == share


@pytest.mark.parametrize('size', [(64, 64), (32, 320)])
def test_figure_shows_the_field_and_its_share(size):
    field = np.random.default_rng(0).random(size)
    figure = draw_field(field, 'a name')
    assert figure.axes[0].get_title() == (
        f'a name\nhalf of the gradient in {share_of_half(field):.1%} of the pixels'
    )
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), np.maximum(field, 1e-3))
