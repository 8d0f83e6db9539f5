"""The specification of the block's ops against loops over the map."""

import pytest
import torch
from fused_cases import draw
from region_cases import loop

from biformer_mm.ops import merge, partition
from biformer_mm.ops.backends import block_reference


def depthwise(x, weight, bias, height, width):
    """Pixel by pixel; what lies outside of x is zero."""
    size = weight.shape[-1]
    out = bias.expand(x.shape[0], height, width, -1).clone()
    for y in range(height):
        for z in range(width):
            for i in range(size):
                for j in range(size):
                    row, column = y + i - size // 2, z + j - size // 2
                    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                        out[:, y, z] += weight[:, 0, i, j] * x[:, row, column]
    return out


def test_layer_norm():
    x, added = draw(2, 3, 6).double(), draw(2, 3, 6, seed=1).double()
    weight, bias = draw(6, seed=2).double(), draw(6, seed=3).double()
    total = x + added
    centred = total - total.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight + bias
    torch.testing.assert_close(block_reference.layer_norm(total, weight, bias, 0.1), expected)
    found = block_reference.add_layer_norm(x, added, weight, bias, 0.1)
    torch.testing.assert_close(found, (total, expected))


@pytest.mark.parametrize('size', [3, 5])
@pytest.mark.parametrize('margin', [0, 1, 2])
def test_add_depthwise(margin, size):
    """The margin of x is read, and nothing is returned for it."""
    x, added = draw(2, 4 + margin, 3 + margin, 6).double(), draw(2, 4, 3, 6, seed=1).double()
    weight, bias = draw(6, 1, size, size, seed=2).double(), draw(6, seed=3).double()
    found = block_reference.add_depthwise(x, weight, bias, added)
    torch.testing.assert_close(found, depthwise(x, weight, bias, 4, 3) + added)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('height, width', [(6, 6), (4, 5), (2, 5)])
def test_attention_with_lce(height, width, masked):
    """Without a mask the padding is a key of attention, and a value of LCE."""
    qkv = draw(2, 6, 6, 3 * 4).double()
    weight, bias = draw(4, 1, 5, 5, seed=1).double(), draw(4, seed=2).double()
    random = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0))
    index = random.topk(4).indices
    found = block_reference.attention_with_lce(
        qkv, weight, bias, index, 3, 2, 0.3, height, width, masked
    )
    regions = [partition(x, 3) for x in qkv.chunk(3, dim=-1)]
    attended = loop(*regions, index, 2, 0.3, (height, width), attend_padding=not masked)
    value = qkv[..., 8:]
    if masked:
        value = value[:, :height, :width]
    lce = depthwise(value, weight, bias, height, width)
    torch.testing.assert_close(found, merge(attended)[:, :height, :width] + lce)
