"""The routing kernels: natively on a GPU, through Triton's interpreter
elsewhere."""

import pytest
import torch

from biformer_mm.ops import fused, partition
from biformer_mm.ops.routing import region_mean

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton_routing  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CASES = [
    # N, H, W, S, C, k, valid size
    (2, 6, 9, 3, 24, 4, None),
    (1, 40, 35, 5, 16, 3, None),  # so many tokens that means come first
    (2, 8, 8, 4, 40, 16, (3, 7)),  # regions without a token
    (1, 36, 40, 4, 16, 12, (19, 39)),
    (1, 2, 2, 2, 8, 1, None),
    (1, 9, 9, 9, 16, 5, None),  # 81 regions of a token
]


@pytest.fixture(params=['means first', 'all at once'])
def way(request, monkeypatch):
    """How the kernels go about it, whatever would be chosen."""
    few = 0 if request.param == 'means first' else 10**9
    monkeypatch.setattr(triton_routing, 'FEW_TOKENS', few)


def make_inputs(case, dtype=torch.float32):
    """Queries and keys as slices of one projection of a map."""
    n, height, width, s, channels, *_ = case
    projection = torch.randn(
        n, height, width, 3 * channels, generator=torch.Generator().manual_seed(0)
    )
    query, key, _ = (partition(x, s) for x in projection.to(DEVICE, dtype).chunk(3, dim=-1))
    return query, key


def best(query, key, topk, valid_size):
    """By a sort of the affinities in fp64 that keeps the order of ties."""
    query_mean, _ = region_mean(query.double(), valid_size)
    key_mean, occupied = region_mean(key.double(), valid_size)
    affinity = query_mean @ key_mean.transpose(1, 2)
    if occupied is not None:
        affinity = affinity.masked_fill(~occupied, float('-inf'))
    return affinity.sort(dim=-1, descending=True, stable=True).indices[..., :topk]


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_ranks_regions_by_affinity_of_their_means(case, dtype, way):
    query, key = make_inputs(case, dtype)
    *_, topk, valid_size = case
    found = fused.routing(query, key, topk, valid_size)
    assert found.dtype == torch.int64
    assert torch.equal(found, best(query, key, topk, valid_size))


def test_the_lower_number_comes_first_of_equals(way):
    query, key = (
        torch.randint(-1, 2, (2, 5, 5, 2, 2, 8), generator=torch.Generator().manual_seed(i))
        .float()
        .to(DEVICE)
        for i in range(2)
    )
    found = fused.routing(query, key, 25, None)
    assert torch.equal(found, best(query, key, 25, None))
    zeros = torch.zeros_like(query)
    assert torch.equal(
        fused.routing(zeros, -zeros, 4, None).cpu(), torch.arange(4).expand(2, 25, 4)
    )


def test_what_is_no_number_chooses_regions_all_the_same(way):
    """A region out of range would be read beyond the map."""
    query, key = make_inputs(CASES[0])
    query = query.clone()
    query[0, 0, 0] = float('nan')
    key = key.clone()
    key[1, 1, 1] = float('inf')
    found = fused.routing(query.contiguous(), key.contiguous(), 9, None)
    assert torch.equal(found.sort().values.cpu(), torch.arange(9).expand(2, 9, 9))


def test_other_memory_layouts(way):
    query, key = make_inputs(CASES[0])
    expected = fused.routing(query, key, 4, None)
    assert torch.equal(fused.routing(query, key.contiguous(), 4, None), expected)
    channels_first = query.transpose(-1, 1).contiguous().transpose(-1, 1)
    assert torch.equal(fused.routing(channels_first, key, 4, None), expected)


def test_equal_bit_for_bit(way):
    query, key = make_inputs(CASES[1], torch.float16)
    assert torch.equal(fused.routing(query, key, 25, None), fused.routing(query, key, 25, None))


@pytest.mark.skipif(not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4')
def test_is_well_registered():
    query, key = make_inputs(CASES[2])
    torch.library.opcheck(torch.ops.biformer_mm.routing_index.default, (query, key, 3, 3, 7))


@pytest.mark.parametrize('n, regions, topk', [(2, 9, 4), (1, 1, 1), (1, 40, 40), (3, 7, 2)])
def test_inverse(n, regions, topk):
    """Against a loop, with regions that nobody reads and some that one reads
    twice."""
    index = torch.randint(
        max(1, regions - 1), (n, regions, topk), generator=torch.Generator().manual_seed(0)
    )
    start, reader = triton_routing.inverse(index.to(DEVICE))
    for image in range(n):
        assert start[image, 0] == 0 and start[image, -1] == regions * topk
        for region in range(regions):
            expected = [
                i for i in range(regions) for _ in range(int((index[image, i] == region).sum()))
            ]
            first, last = start[image, region], start[image, region + 1]
            assert reader[image, first:last].tolist() == expected
