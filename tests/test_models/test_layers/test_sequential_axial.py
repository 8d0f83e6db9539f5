import pytest
import torch
from attention_loop import assert_equal_with_gradients, attend_by_loop

from biformer_mm.models.layers.sequential_axial import SequentialAxialAttention


@pytest.mark.parametrize('size', [(1, 1), (1, 4), (5, 3)])
def test_equals_a_loop_over_rows_then_columns(size):
    torch.manual_seed(0)
    layer = SequentialAxialAttention(8, 2).double()

    def loop(x):
        along_rows = attend_by_loop(layer, x, lambda at, to: at[0] == to[0])
        out = attend_by_loop(layer, x, lambda at, to: at[1] == to[1], value=along_rows)
        return layer.proj(out)

    assert_equal_with_gradients(layer, loop, torch.randn(2, *size, 8).double())
