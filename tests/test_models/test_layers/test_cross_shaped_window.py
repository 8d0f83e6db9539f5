from types import SimpleNamespace

import pytest
import torch
from attention_loop import assert_equal_with_gradients, attend_by_loop

from biformer_mm.models.layers import build_attention
from biformer_mm.models.layers.cross_shaped_window import CrossShapedWindowAttention


def convolve_by_loop(conv, value, sees):
    """Apply a 3x3 depth-wise convolution that leaves out tokens that are not seen."""
    _, height, width, _ = value.shape
    rows = []
    for i in range(height):
        for j in range(width):
            total = conv.bias.expand(len(value), -1)
            for a in range(max(i - 1, 0), min(i + 2, height)):
                for b in range(max(j - 1, 0), min(j + 2, width)):
                    if sees((i, j), (a, b)):
                        total = total + conv.weight[:, 0, a - i + 1, b - j + 1] * value[:, a, b]
            rows.append(total)
    return torch.stack(rows, 1).view_as(value)


def attend_within_stripes(layer, x):
    """The layer, token by token: the first half of the heads in rows, the second in columns."""
    halves = []
    qkv = layer.qkv(x).unflatten(-1, (3, 2, -1))
    for axis in (0, 1):

        def same_stripe(at, to, axis=axis):
            return at[axis] // layer.stripe == to[axis] // layer.stripe

        half = qkv[..., axis, :]
        value = half[..., 2, :]
        projected = SimpleNamespace(
            qkv=lambda _, half=half: half.flatten(3), num_heads=layer.num_heads // 2
        )
        attended = attend_by_loop(projected, value, same_stripe)
        halves.append(attended + convolve_by_loop(layer.lepe[axis], value, same_stripe))
    return layer.proj(torch.cat(halves, dim=-1))


@pytest.mark.parametrize(
    'stripe, size',
    [
        (1, (1, 1)),
        (1, (4, 3)),
        (2, (4, 6)),
        (2, (5, 4)),  # rows are padded
        (2, (4, 3)),  # columns are padded
        (3, (5, 4)),  # both are padded
        (7, (3, 4)),  # one stripe
    ],
)
def test_equals_a_loop_over_stripes(stripe, size):
    torch.manual_seed(0)
    layer = CrossShapedWindowAttention(8, 4, stripe).double()
    x = torch.randn(2, *size, 8, dtype=torch.double)
    assert_equal_with_gradients(layer, lambda x: attend_within_stripes(layer, x), x)


def test_stripes_and_heads_in_the_swin_layout():
    layers = [
        build_attention('cross_shaped_window', 96 * 2**i, 3 * 2**i, stage=i, block=0, options={})
        for i in range(4)
    ]
    assert [layer.stripe for layer in layers] == [1, 2, 7, 7]
    assert [layer.num_heads for layer in layers] == [4, 6, 12, 24]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_heads=1), 'num_heads must be even; got 1'),
        (dict(stripe=0), 'stripe'),
        (dict(stripe=1.5), 'stripe'),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CrossShapedWindowAttention(**{'embed_dims': 8, 'num_heads': 2, **options})
