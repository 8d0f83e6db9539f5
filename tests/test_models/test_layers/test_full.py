import pytest
import torch
from attention_loop import assert_equal_with_gradients
from torch.nn.functional import scaled_dot_product_attention

from biformer_mm.models.layers.full import GlobalAttention, attend_to_all


@pytest.mark.parametrize('size', [(1, 1), (5, 3), (8, 8)])
def test_equals_pytorchs_attention_on_the_flat_map(size):
    torch.manual_seed(0)
    layer = GlobalAttention(12, 3).double()

    def flat(x):
        parts = layer.qkv(x.flatten(1, 2)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in parts)
        out = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return layer.proj(out).view_as(x)

    assert_equal_with_gradients(layer, flat, torch.randn(2, *size, 12).double())


def test_fx_records_one_call_that_takes_any_size():
    layer = GlobalAttention(12, 3)
    graph = torch.fx.symbolic_trace(layer)
    assert sum(node.target is attend_to_all for node in graph.graph.nodes) == 1
    for size in (1, 1), (5, 3):
        x = torch.randn(2, *size, 12)
        torch.testing.assert_close(graph(x), layer(x))
