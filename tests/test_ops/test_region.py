import pytest
import torch

from biformer_mm.ops import merge, pad_to_regions, partition
from biformer_mm.ops.region import valid_tokens


@pytest.mark.parametrize('height, width, num_regions, padded', [
    (8, 12, 4, (8, 12)),
    (7, 13, 4, (8, 16)),
    (3, 5, 8, (8, 8)),
    (1, 1, 1, (1, 1)),
])
def test_padding_appends_zeros_right_and_below(height, width, num_regions,
                                               padded):
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
                regions[:, row, col],
                x[:, 2 * row:2 * row + 2, 3 * col:3 * col + 3])


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
