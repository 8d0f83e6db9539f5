import pytest
import torch
from attention_loop import assert_equal_with_gradients

from biformer_mm.models.layers import build_attention
from biformer_mm.models.layers.sliding_window import SlidingWindowAttention


def attend_to_neighbours(layer, x):
    """The layer, one query at a time: softmax of q.(k + r) over the neighbours on the map."""
    _, height, width, channels = x.shape
    reach = layer.window_size // 2
    head_dim = channels // layer.num_heads
    query, key, value = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1)).unbind(3)
    rows = []
    for i in range(height):
        for j in range(width):
            scores, values = [], []
            for a in range(max(i - reach, 0), min(i + reach + 1, height)):
                for b in range(max(j - reach, 0), min(j + reach + 1, width)):
                    row, column = layer.of_rows[a - i + reach], layer.of_columns[b - j + reach]
                    near = key[:, a, b] + torch.cat([row, column])
                    scores.append((query[:, i, j] * near).sum(-1) / head_dim**0.5)
                    values.append(value[:, a, b])
            weights = torch.stack(scores).softmax(0)  # (neighbours, N, m)
            rows.append((weights[..., None] * torch.stack(values)).sum(0).flatten(1))
    return layer.proj(torch.stack(rows, 1).view_as(x))


@pytest.mark.parametrize(
    'window_size, size',
    [
        (3, (1, 1)),
        (3, (6, 9)),
        (3, (7, 5)),
        (1, (2, 3)),
        (7, (4, 5)),  # smaller than the neighbourhood
        (7, (1, 9)),
        (7, (7, 14)),
        (7, (8, 10)),
    ],
)
def test_equals_a_loop_over_neighbours(window_size, size):
    torch.manual_seed(0)
    layer = SlidingWindowAttention(8, 2, window_size).double()
    torch.nn.init.normal_(layer.of_rows)
    torch.nn.init.normal_(layer.of_columns)
    x = torch.randn(2, *size, 8, dtype=torch.double)
    assert_equal_with_gradients(layer, lambda x: attend_to_neighbours(layer, x), x)


def test_without_bias_of_projections():
    torch.manual_seed(0)
    layer = SlidingWindowAttention(8, 2, 3, qkv_bias=False).double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.double)
    assert_equal_with_gradients(layer, lambda x: attend_to_neighbours(layer, x), x)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_sees_no_token_beyond_the_window(dtype):
    """The number that hides a pair fits half precision, also where scores are large."""
    torch.manual_seed(0)
    layer = SlidingWindowAttention(8, 2, 3).to(dtype)
    layer.qkv.weight.data *= 30
    x = torch.randn(1, 9, 9, 8, dtype=dtype)
    changed = x.clone()
    changed[:, :, 5:] = 0
    out, other = layer(x), layer(changed)
    torch.testing.assert_close(out[:, :, :4], other[:, :, :4], atol=0, rtol=0)
    assert out.isfinite().all() and not torch.equal(out[:, :, 4], other[:, :, 4])


def test_is_7x7_in_the_swin_layout():
    layer = build_attention('sliding_window', 96, 3, stage=0, block=1, options={})
    assert (layer.num_heads, layer.window_size) == (3, 7)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(window_size=4), 'window_size must be odd; got 4'),
        (dict(window_size=0), 'window_size'),
        (dict(embed_dims=9, num_heads=3), 'embed_dims/num_heads must be even; got 9/3'),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindowAttention(**{'embed_dims': 8, 'num_heads': 2, **options})
