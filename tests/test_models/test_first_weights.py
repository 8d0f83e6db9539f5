"""Weights of a BiFormer that is built from scratch."""

import pytest
import torch
from first_weights import find_outliers
from torch import nn

from biformer_mm.models import BiFormer
from biformer_mm.models.backbones.biformer import init_linear

STD = 0.02


def draw(in_features, out_features, **options):
    """Weights that a layer of BiFormer's starts with, in deviations."""
    layer = nn.Linear(in_features, out_features, **options)
    init_linear(layer)
    assert not layer.bias.any()
    return layer.weight.detach().double().div_(STD)


def test_a_hundred_million_weights_are_normal():
    torch.manual_seed(0)
    chunks, sums, farthest = 20, torch.zeros(3, dtype=torch.float64), 0.0
    for _ in range(chunks):
        x = draw(5000, 1000)
        farthest = max(farthest, x.abs().max().item())
        square = x * x
        sums += torch.stack([x.mean(), square.mean(), (square * square).mean()])
    n = chunks * 5000 * 1000
    assert n == 100_000_000
    mean, square, fourth = (sums / chunks).tolist()
    # Five standard errors each: of a mean, sqrt(1 / n); of a variance,
    # sqrt(2 / n); of a kurtosis, sqrt(24 / n).
    error = 5 / n**0.5
    assert mean == pytest.approx(0, abs=error)
    assert square == pytest.approx(1, abs=error * 2**0.5)
    assert fourth / square**2 == pytest.approx(3, abs=error * 24**0.5)
    # The largest of so many is expected near 5.7. float32's uniform numbers,
    # multiples of 2^-24, end at 5.77.
    assert 5 < farthest < 6


@pytest.mark.parametrize(
    'dtype',
    [
        torch.float32,
        torch.bfloat16,
        pytest.param(
            torch.float16,
            marks=pytest.mark.skipif(
                not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4'
            ),
        ),
    ],
)
@pytest.mark.parametrize('size', [(5, 3), (64, 64)])  # other code below 16
def test_small_layers_and_dtypes(size, dtype):
    torch.manual_seed(0)
    draws = 100_000 // (size[0] * size[1])
    x = torch.cat([draw(*size, dtype=dtype).flatten() for _ in range(draws)])
    # Five standard errors of 100,000 draws are 0.011 and 0.077. bfloat16 needs
    # more: its uniform numbers have 8 bits, so that its normal ends at 3.3.
    assert 3 < x.abs().max() < 6
    assert x.std().item() == pytest.approx(1, abs=0.015)
    kurtosis = (x**4).mean() / x.var() ** 2
    assert kurtosis.item() == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize('seed', range(4))
def test_no_outlier_in_biformer_s(seed):
    torch.manual_seed(seed)
    assert find_outliers(BiFormer('small')) == {}


def test_outliers_are_found():
    layer = nn.Linear(100, 100)
    with torch.no_grad():
        layer.weight[3, 4] = 2.0
    assert list(find_outliers(layer)) == ['weight']
