"""Against LayerNorm in fp64: natively on a GPU, through Triton's interpreter elsewhere."""

import pytest
import torch
from fused_cases import DTYPES, assert_right, norm_case, run
from tolerances import relative_rms

from biformer_mm.ops import fused
from biformer_mm.ops.backends import block_reference

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton_layer_norm


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
