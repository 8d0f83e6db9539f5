"""The mask over the whole map; test_region_attention.py has the results."""

import math

import pytest
import torch

from biformer_mm.ops.backends import cpu_dense

N, SH, SW, H, W, TOPK = 2, 3, 2, 2, 3, 4


@pytest.mark.parametrize('attend_padding', [False, True])
@pytest.mark.parametrize('valid_size', [(0, 0), (5, 4), (2, 6)])
def test_mask(valid_size, attend_padding):
    """Pair by pair: how often the query's region lists the key's."""
    index = torch.randint(SH * SW, (N, SH * SW, TOPK), generator=torch.Generator().manual_seed(0))
    query = torch.zeros(N, SH, SW, H, W, 8)
    valid = cpu_dense._valid(query, *valid_size)
    bias, idle = cpu_dense._mask(index, query, valid, attend_padding)
    places = [(y, x) for y in range(SH * H) for x in range(SW * W)]
    assert bias.shape == (N, 1, len(places), len(places))
    if not valid_size[0]:
        assert idle is None

    def on_map(place):
        return not valid_size[0] or (place[0] < valid_size[0] and place[1] < valid_size[1])

    def region(place):
        return place[0] // H * SW + place[1] // W

    for image in range(N):
        for i, at in enumerate(places):
            listed = index[image, region(at)].tolist()
            times = [
                listed.count(region(to)) if attend_padding or on_map(to) else 0 for to in places
            ]
            if idle is not None:
                assert idle[image, i] == (not on_map(at) or not any(times))
            if any(times):  # else it is any, and the output is cleared
                expected = [math.log(n) if n else float('-inf') for n in times]
                torch.testing.assert_close(bias[image, 0, i], torch.tensor(expected))
