import pytest
import torch
from attention_loop import assert_equal_with_gradients, attend_by_loop
from mmcv.ops import CrissCrossAttention

from biformer_mm.models.layers.criss_cross import CrissCrossSelfAttention


@pytest.mark.parametrize('size', [(1, 1), (1, 4), (5, 3)])
def test_equals_a_loop_over_row_and_column(size):
    torch.manual_seed(0)
    layer = CrissCrossSelfAttention(8, 2).double()

    def loop(x):
        out = attend_by_loop(layer, x, lambda at, to: at[0] == to[0] or at[1] == to[1])
        return layer.proj(out)

    assert_equal_with_gradients(layer, loop, torch.randn(2, *size, 8).double())


def test_equals_mmcvs_attention():
    """It has one head, no scale, fewer channels of queries and keys, and adds its input."""
    torch.manual_seed(0)
    layer = CrissCrossSelfAttention(16, 1)
    theirs = CrissCrossAttention(16)
    layer.proj = torch.nn.Identity()
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.bias.zero_()
        for start, conv in ((0, theirs.query_conv), (16, theirs.key_conv), (32, theirs.value_conv)):
            stop = start + conv.out_channels
            layer.qkv.weight[start:stop] = conv.weight[..., 0, 0]
            layer.qkv.bias[start:stop] = conv.bias
        layer.qkv.weight[:16] *= 4  # undoes the scale
        layer.qkv.bias[:16] *= 4
        theirs.gamma.scale.fill_(1)
    x = torch.randn(2, 5, 3, 16)
    expected = theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) - x
    torch.testing.assert_close(layer(x), expected)
