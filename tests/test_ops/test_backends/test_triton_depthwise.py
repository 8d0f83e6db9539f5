"""Against a convolution in fp64: natively on a GPU, through Triton's interpreter elsewhere."""

import pytest
import torch
from fused_cases import DEVICE, DTYPES, MAPS, assert_right, depthwise_case

from biformer_mm.ops import fused
from biformer_mm.ops.backends import block_reference

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton_depthwise


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
