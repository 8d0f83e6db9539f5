import math

import pytest
import torch
import torch.nn.functional as F
from attention_loop import assert_equal_with_gradients, attend_by_loop

from biformer_mm.models.layers import build_attention
from biformer_mm.models.layers.deformable import DeformableAttention


def build(**options):
    """A layer whose offsets are large and whose table differs in each entry."""
    torch.manual_seed(0)
    layer = DeformableAttention(**{'embed_dims': 8, 'num_heads': 4, 'table_size': 3, **options})
    torch.nn.init.normal_(layer.to_offset.weight)
    torch.nn.init.normal_(layer.table)
    return layer.double()


def bilinear(map_, row, column):
    """Interpolate a map, (H, W, ...), at a place in tokens; it is zero beyond its borders."""
    total = torch.zeros_like(map_[0, 0])
    top, left = math.floor(row.item()), math.floor(column.item())
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < map_.shape[0] and 0 <= j < map_.shape[1]:
                total = total + (1 - (row - i).abs()) * (1 - (column - j).abs()) * map_[i, j]
    return total


def to_token(place, length):
    return (place + 1) / 2 * (length - 1)


def places_of(group, layer):
    """Where the points of a group's queries, (H, W, C/g), are: pairs from -1 to 1."""
    conv, norm = layer.spread, layer.norm
    spread = F.conv2d(
        group.permute(2, 0, 1)[None],
        conv.weight,
        conv.bias,
        layer.stride,
        conv.kernel_size[0] // 2,
        groups=group.shape[-1],
    )[0].permute(1, 2, 0)
    spread = F.layer_norm(spread, spread.shape[-1:], norm.weight, norm.bias)
    offsets = F.gelu(spread) @ layer.to_offset.weight.t()
    rows, columns, _ = offsets.shape
    places = []
    for i in range(rows):
        for j in range(columns):
            place = []
            for offset, index, number in zip(offsets[i, j], (i, j), (rows, columns)):
                start = (index + 0.5) / max(number - 1, 1) * 2 - 1
                if layer.reach is None:
                    place.append((start + offset).clamp(-1, 1))
                else:
                    place.append(start + offset.tanh() * layer.reach / max(number - 1, 1))
            places.append(place)
    return places


def attend_to_points(layer, x):
    """The layer, one image, head and pair of query and point at a time."""
    _, height, width, channels = x.shape
    heads, groups = layer.num_heads, layer.num_groups
    in_group, head_dim = channels // groups, channels // heads
    centre = layer.table.shape[-1] // 2
    images = []
    for image in x:
        query = layer.qkv(image)[..., :channels]
        places = [
            places_of(query[..., i * in_group : (i + 1) * in_group], layer) for i in range(groups)
        ]
        sampled = [  # a and b: row and column, from -1 to 1
            torch.stack(
                [bilinear(part, to_token(a, height), to_token(b, width)) for a, b in places[i]]
            )
            for i, part in enumerate(image.split(in_group, dim=-1))
        ]
        key, value = layer.qkv(torch.cat(sampled, -1))[:, channels:].chunk(2, -1)
        results = []
        for m in range(heads):
            head = slice(m * head_dim, (m + 1) * head_dim)
            for i in range(height):
                for j in range(width):
                    bias = []
                    for a, b in places[m * groups // heads]:
                        down = (i / (height - 1) * 2 - 1 if height > 1 else 0) - a
                        right = (j / (width - 1) * 2 - 1 if width > 1 else 0) - b
                        at = centre + down / 2 * centre, centre + right / 2 * centre
                        bias.append(bilinear(layer.table[m], *at))
                    scores = key[:, head] @ query[i, j, head] / head_dim**0.5
                    results.append((scores + torch.stack(bias)).softmax(0) @ value[:, head])
        images.append(torch.stack(results).view(heads, height, width, -1).permute(1, 2, 0, 3))
    return layer.proj(torch.stack(images).flatten(3))


@pytest.mark.parametrize(
    'options, size',
    [
        (dict(), (3, 3)),  # the map of the table
        (dict(stride=2, num_groups=2), (4, 5)),
        (dict(stride=2, num_groups=4, kernel_size=3, reach=None), (5, 4)),
        (dict(stride=8, kernel_size=9), (2, 4)),  # one point
        (dict(), (1, 4)),
        (dict(), (1, 1)),
    ],
)
def test_equals_a_loop_over_points(options, size):
    layer = build(**options)
    x = torch.randn(2, *size, 8, dtype=torch.double)
    assert_equal_with_gradients(layer, lambda x: attend_to_points(layer, x), x)


def test_gradients_of_the_offsets_equal_finite_differences():
    layer = build(embed_dims=4, num_heads=2, stride=2, kernel_size=3, num_groups=2)
    x = torch.randn(1, 3, 4, 4, dtype=torch.double)
    network = [*layer.spread.parameters(), *layer.norm.parameters(), layer.to_offset.weight]
    assert torch.autograd.gradcheck(lambda *_: layer(x), network)


def test_table_is_exact_where_points_are_tokens():
    """Half a token up and left from their starts, points are the map's tokens."""
    layer = build(kernel_size=1, reach=2.0, table_size=4)
    with torch.no_grad():
        layer.norm.weight.zero_()
        layer.norm.bias.fill_(1)
        layer.to_offset.weight.fill_(-math.atanh(0.5) / (8 * F.gelu(torch.tensor(1.0).double())))

    def relative(at, to):
        return layer.table[:, at[0] - to[0] + 3, at[1] - to[1] + 3]

    x = torch.randn(2, 4, 4, 8, dtype=torch.double)
    expected = attend_by_loop(layer, x, lambda at, to: True, relative)
    torch.testing.assert_close(layer(x), layer.proj(expected))


def test_half_precision_does_not_move_the_points():
    layer = build(stride=2).float()
    x = torch.randn(1, 64, 64, 8).bfloat16()
    query = layer.queries(x.float()).bfloat16()
    layer.spread.weight.data.zero_()
    layer.norm.bias.data.fill_(1)
    layer.to_offset.weight.data.fill_(2.0**-6)
    expected = layer._points(query.float())
    found = layer.bfloat16()._points(query)
    # Half a hundredth of a token: bfloat16 rounds by a tenth of one.
    torch.testing.assert_close(found, expected, atol=0.01 / 64, rtol=0)


def test_strides_and_groups_in_the_swin_layout():
    layers = [
        build_attention('deformable', 96 * 2**i, 3 * 2**i, stage=i, block=0, options={})
        for i in range(4)
    ]
    assert [layer.stride for layer in layers] == [8, 4, 2, 1]
    assert [layer.spread.kernel_size[0] for layer in layers] == [9, 7, 5, 3]
    assert [layer.num_groups for layer in layers] == [1, 2, 3, 6]
    assert [layer.table.shape[-1] for layer in layers] == [111, 55, 27, 13]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(stride=0), 'stride'),
        (dict(kernel_size=4), 'kernel_size must be odd; got 4'),
        (dict(num_groups=3), 'num_groups'),
        (dict(reach=0), 'reach must be above 0'),
        (dict(reach='far'), 'reach'),
        (dict(table_size=0), 'table_size'),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
