"""Attention over the whole map; test_triton.py runs it on each of its cases."""

import math

import pytest
import torch

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.mark.parametrize('of_keys', [False, True])
def test_bias_of_maps_seen_whole(of_keys):
    """Entry by entry; 64 places a row, as keys come in tiles."""
    n, s, h, w, topk, valid_size = 2, 3, 2, 2, 5, (5, 4)
    index = torch.randint(s * s, (n, s * s, topk), generator=torch.Generator().manual_seed(0))
    query = torch.zeros(n, s, s, h, w, 16, device=DEVICE)
    launch = triton._Launcher(query, query, query, index.to(DEVICE), 1, 1.0, *valid_size, False)
    bias = launch._bias(of_keys).cpu()
    assert bias.shape == (n, s * s, 64)
    exact = torch.full(bias.shape, float('-inf'))
    for image in range(n):
        for reader in range(s * s):
            for routed in index[image, reader].unique().tolist():
                times = index[image, reader].tolist().count(routed)
                of, other = (routed, reader) if of_keys else (reader, routed)
                for token in range(h * w):
                    y = other // s * h + token // w
                    x = other % s * w + token % w
                    if of_keys or (y < valid_size[0] and x < valid_size[1]):
                        exact[image, of, other * h * w + token] = math.log2(times)
    torch.testing.assert_close(bias, exact)
