from functools import lru_cache
from itertools import product

import pytest
import torch
from attention_loop import assert_equal_with_gradients

from biformer_mm.models.layers import build_attention
from biformer_mm.models.layers.full import GlobalAttention
from biformer_mm.models.layers.quadtree import QuadTreeAttention


def attend_down_the_tree(layer, x):
    """The layer, one query and head at a time; cells without a token do not exist."""
    _, height, width, _ = x.shape
    qkv = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1))  # (N, H, W, 3, m, d)
    coarsest = layer.num_levels - 1
    shares = layer.level_weights.softmax(0)
    tokens = list(product(range(height), range(width)))

    def attend(qkv):  # (H, W, 3, d)
        cells = []  # by level, from fine to coarse
        for level in range(layer.num_levels):
            members = {}
            for i, j in tokens:
                members.setdefault((i >> level, j >> level), []).append(qkv[i, j])
            cells.append({at: sum(of) / len(of) for at, of in members.items()})

        def scores(level, at, seen):
            keys = torch.stack([cells[level][to][1] for to in seen])
            query = cells[level][at][0]
            return keys @ query / len(query) ** 0.5

        @lru_cache(None)
        def seen_from(level, at):
            if level == coarsest:
                return list(cells[level])
            parent = at[0] // 2, at[1] // 2
            seen = seen_from(level + 1, parent)
            order = scores(level + 1, parent, seen).argsort(descending=True)
            best = [seen[i] for i in order[: layer.topk]]
            return [to for to in cells[level] if (to[0] // 2, to[1] // 2) in best]

        @lru_cache(None)
        def message(level, at):
            seen = seen_from(level, at)
            weights = scores(level, at, seen).softmax(0)
            value = weights @ torch.stack([cells[level][to][2] for to in seen])
            value = value * shares[coarsest - level]
            if level == coarsest:
                return value
            return value + message(level + 1, (at[0] // 2, at[1] // 2))

        return torch.stack([message(0, at) for at in tokens])  # (H*W, d)

    heads = range(layer.num_heads)
    out = [torch.cat([attend(image[..., m, :]) for m in heads], dim=-1) for image in qkv]
    return layer.proj(torch.stack(out).view_as(x))


@pytest.mark.parametrize(
    'num_levels, topk, size',
    [
        (3, 2, (8, 8)),
        (2, 3, (4, 6)),
        (4, 1, (8, 16)),
        (3, 2, (7, 9)),  # padded
        (3, 1, (9, 1)),
        (3, 8, (5, 6)),  # fewer tokens than k on the coarsest level
        (3, 8, (1, 1)),
        (1, 2, (3, 4)),
    ],
)
def test_equals_a_loop_over_queries(num_levels, topk, size):
    torch.manual_seed(0)
    layer = QuadTreeAttention(4, 2, topk, num_levels).double()
    torch.nn.init.normal_(layer.level_weights)
    x = torch.randn(2, *size, 4, dtype=torch.double)
    assert_equal_with_gradients(layer, lambda x: attend_down_the_tree(layer, x), x)


def test_one_level_equals_full_attention():
    torch.manual_seed(0)
    layer = QuadTreeAttention(8, 2, num_levels=1)
    full = GlobalAttention(8, 2)
    layer.load_state_dict(full.state_dict(), strict=False)
    x = torch.randn(2, 5, 6, 8)
    torch.testing.assert_close(layer(x), full(x))


def test_levels_in_the_swin_layout():
    layers = [
        build_attention('quadtree', 96 * 2**i, 3 * 2**i, stage=i, block=0, options={})
        for i in range(4)
    ]
    assert [(layer.num_levels, layer.topk) for layer in layers] == [(4, 8), (3, 8), (2, 8), (1, 8)]


@pytest.mark.parametrize('options', [dict(topk=0), dict(num_levels=0), dict(num_levels=1.5)])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        QuadTreeAttention(8, 2, **options)
