"""Inputs of region attention, and what it means: a loop over queries."""

import math

import torch

from biformer_mm.ops import partition

# N, Sh, Sw, h, w, C, heads, k
SHAPES = [
    (2, 2, 3, 2, 2, 8, 2, 3),
    (1, 4, 4, 1, 3, 6, 3, 16),
    (1, 3, 2, 3, 5, 4, 1, 1),
    (2, 1, 1, 4, 3, 8, 4, 1),
    (1, 7, 7, 1, 1, 16, 2, 5),
]


def make_inputs(shape, device='cpu', dtype=torch.float64):
    n, sh, sw, h, w, c, num_heads, topk = shape
    generator = torch.Generator().manual_seed(0)
    qkv = [
        torch.randn(n, sh, sw, h, w, c, generator=generator, dtype=dtype).to(device)
        for _ in range(3)
    ]
    index = torch.rand(n, sh * sw, sh * sw, generator=generator).topk(topk).indices
    return qkv, index.to(device), dict(num_heads=num_heads, scale=0.3)


def cut(x, shape):
    """A map as regions, not necessarily as many down as across."""
    sh, sw, h, w = shape[1:5]
    return x.unflatten(2, (sw, w)).unflatten(1, (sh, h)).transpose(2, 3)


def loop(query, key, value, region_index, num_heads, scale, valid_size=None, attend_padding=False):
    """One query at a time, from coordinates on the map; on the CPU."""
    query, key, value, region_index = (x.cpu() for x in (query, key, value, region_index))
    n, sh, sw, h, w, c = query.shape
    height, width = valid_size or (sh * h, sw * w)
    d = c // num_heads
    out = torch.zeros_like(query)
    for b in range(n):
        for y in range(height):
            for x in range(width):
                region = (y // h) * sw + x // w
                keys = [
                    (j // sw, j % sw, r, s)
                    for j in region_index[b, region].tolist()
                    for r in range(h)
                    for s in range(w)
                    if attend_padding or (j // sw) * h + r < height and (j % sw) * w + s < width
                ]
                at = (b, y // h, x // w, y % h, x % w)
                for m in range(num_heads):
                    head = slice(m * d, (m + 1) * d)
                    weights = [
                        math.exp(scale * (query[at][head] @ key[(b, *k)][head]).item())
                        for k in keys
                    ]
                    for weight, k in zip(weights, keys):
                        out[at][head] += weight / sum(weights) * value[(b, *k)][head]
    return out


def make_square(size, num_regions, topk, channels=8):
    generator = torch.Generator().manual_seed(0)
    qkv = [
        partition(torch.randn(1, size, size, channels, generator=generator), num_regions)
        for _ in range(3)
    ]
    index = torch.rand(1, num_regions**2, num_regions**2, generator=generator).topk(topk)
    return [*qkv, index.indices]
