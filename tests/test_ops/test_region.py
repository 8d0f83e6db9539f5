import math

import pytest
import torch

from biformer_mm.ops import auto_num_regions, merge, pad_to_regions, partition
from biformer_mm.ops.region import crop, pin_size, valid_tokens


@pytest.mark.parametrize(
    'height, width, num_regions, padded',
    [(8, 12, 4, (8, 12)), (7, 13, 4, (8, 16)), (3, 5, 8, (8, 8)), (1, 1, 1, (1, 1))],
)
def test_padding_appends_zeros_right_and_below(height, width, num_regions, padded):
    x = torch.rand(2, height, width, 3) + 1
    out = pad_to_regions(x, num_regions)
    assert out.shape == (2, *padded, 3)
    assert torch.equal(out[:, :height, :width], x)
    assert not out[:, height:].any() and not out[:, :, width:].any()
    assert (out is x) == ((height, width) == padded)


def test_partition_cuts_without_a_copy():
    x = torch.arange(2 * 6 * 9 * 5).view(2, 6, 9, 5)
    regions = partition(x, 3)
    assert regions.shape == (2, 3, 3, 2, 3, 5)
    assert regions.data_ptr() == x.data_ptr()
    for row in range(3):
        for col in range(3):
            assert torch.equal(
                regions[:, row, col], x[:, 2 * row : 2 * row + 2, 3 * col : 3 * col + 3]
            )


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_traced_partition_takes_what_the_regions_divide():
    trace = torch.jit.trace(lambda x: partition(x, 3), torch.rand(1, 6, 9, 5))
    x = torch.rand(2, 3, 12, 5)
    assert torch.equal(trace(x), partition(x, 3))
    for size in (6, 8), (4, 9), (2, 9), (18, 2):
        with pytest.raises(RuntimeError, match='is invalid for input of size'):
            trace(torch.rand(1, *size, 5))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_pinned_size_is_the_only_one_of_a_trace():
    trace = torch.jit.trace(lambda x: 2 * pin_size(x), torch.rand(1, 6, 9, 5))
    x = torch.rand(2, 6, 9, 5)
    assert torch.equal(trace(x), 2 * x)
    for size in (9, 6), (6, 8), (12, 9), (1, 54):
        with pytest.raises(RuntimeError, match='is invalid for input of size'):
            trace(torch.rand(1, *size, 5))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_crop_cuts_padding_off_and_costs_a_trace_nothing_without_it():
    x = torch.rand(1, 6, 9, 5)
    assert torch.equal(crop(x, 5, 7), x[:, :5, :7])
    assert torch.equal(crop(x, 8, 9), x)
    for size in (5, 7), (5, 9), (8, 7), (6, 9), (8, 11):
        trace = torch.jit.trace(lambda x, size=size: crop(x, *size) + 0, x)
        assert torch.equal(trace(x), crop(x, *size))
        assert ('aten::slice' in str(trace.graph)) == (size[0] < 6 or size[1] < 9)


@pytest.mark.parametrize('layout', ['NHWC', 'NCHW'])
def test_merge_inverts_partition(layout):
    x = torch.rand(2, 6, 9, 5)
    if layout == 'NCHW':
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(merge(partition(x, 3)), x)
    assert torch.equal(merge(partition(x, 3).contiguous()), x)


def test_valid_tokens_are_those_of_the_map():
    expected = torch.zeros(1, 9, 12, 1)
    expected[:, :7, :10] = 1
    valid = valid_tokens((3, 3, 3, 4), (7, 10), torch.device('cpu'))
    assert torch.equal(valid, partition(expected, 3)[0, ..., 0].bool())


def routing_cost(height, width, channels, topk, s):
    """Equation 8 on the padded map."""
    tokens = s * math.ceil(height / s) * s * math.ceil(width / s)
    return 3 * tokens * channels**2 + 2 * s**4 * channels + 2 * topk * tokens**2 * channels / s**2


@pytest.mark.parametrize(
    'height, width', [(56, 56), (200, 334), (25, 42), (7, 300), (3, 3), (1, 1)]
)
@pytest.mark.parametrize('channels, topk', [(64, 1), (64, 2), (128, 4), (256, 16)])
def test_auto_num_regions_costs_least(height, width, channels, topk):
    s = auto_num_regions(height, width, channels, topk)
    fewest = math.ceil(math.sqrt(topk))
    assert fewest <= s <= max(fewest, min(height, width))
    least = min(routing_cost(height, width, channels, topk, other) for other in range(fewest, 400))
    if s < min(height, width):
        assert routing_cost(height, width, channels, topk, s) == least


@pytest.mark.parametrize(
    'channels, topk, sizes',
    [
        (64, 1, (56, 96, 128, 192, 256, 384, 512)),
        (128, 4, (28, 48, 64, 96, 128, 192, 256)),
        (256, 16, (14, 24, 32, 48, 64, 96, 128)),
    ],
)
def test_auto_num_regions_grows_as_equation_9(channels, topk, sizes):
    """S within rounding of the equation's; and attention's cost, without the
    projections, in tokens to a power of about 4/3."""
    costs = []
    for size in sizes:
        s = auto_num_regions(size, size, channels, topk)
        ideal = (topk / 2 * size**4) ** (1 / 6)
        assert 0.8 < s / ideal < 1.4
        costs.append(routing_cost(size, size, channels, topk, s) - 3 * size**2 * channels**2)
    slope = math.log(costs[-1] / costs[0]) / math.log((sizes[-1] / sizes[0]) ** 2)
    assert 1.2 < slope < 1.4
