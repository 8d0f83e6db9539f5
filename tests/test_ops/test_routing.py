import torch

from biformer_mm.ops import partition, routing_index
from biformer_mm.ops.routing import region_mean


def regions(height, width, num_regions, channels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, height, width, channels, generator=generator)
    return partition(x, num_regions)


def test_index_ranks_regions_by_affinity_of_their_means():
    query, key = regions(6, 9, 3), regions(6, 9, 3, seed=1)
    index = routing_index(query, key, topk=4)
    assert index.shape == (2, 9, 4) and index.dtype == torch.int64
    for n in range(2):
        for i in range(9):
            q = query[n].flatten(0, 1)[i].reshape(-1, 8).double().mean(0)
            affinity = [
                q @ key[n].flatten(0, 1)[j].reshape(-1, 8).double().mean(0) for j in range(9)
            ]
            best = sorted(range(9), key=lambda j: -affinity[j])[:4]
            assert index[n, i].tolist() == best


def test_means_are_over_the_tokens_of_each_region():
    """Of 2 x 3 tokens."""
    tokens = regions(4, 6, 2)
    mean, occupied = region_mean(tokens)
    torch.testing.assert_close(mean, tokens.mean(dim=(3, 4)).flatten(1, 2))
    assert occupied is None


def test_padding_is_left_out_of_the_means():
    tokens = regions(6, 8, 2)
    mean, occupied = region_mean(tokens, valid_size=(5, 6))
    expected = tokens[:, 1, 1, :2, :2].mean(dim=(1, 2))  # 2 of 3, 2 of 4
    torch.testing.assert_close(mean[:, 3], expected)
    assert occupied.all()


def test_region_without_a_token_comes_last_and_is_no_nan():
    tokens = regions(8, 8, 4)
    mean, occupied = region_mean(tokens, valid_size=(3, 8))
    assert occupied.tolist() == [True] * 8 + [False] * 8
    assert not mean[:, 8:].any() and mean.isfinite().all()
    index = routing_index(-tokens.abs(), tokens.abs(), 10, valid_size=(3, 8))
    assert (index[..., :8] < 8).all() and (index[..., 8:] >= 8).all()


def test_half_precision_neither_overflows_nor_reorders():
    query = (1e4 * regions(8, 8, 4)).half()
    key = (1e4 * regions(8, 8, 4, seed=1)).half()
    assert query.isfinite().all() and key.isfinite().all()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        index = routing_index(query, key, 5)
    assert torch.equal(index, routing_index(query.double(), key.double(), 5))


def test_nothing_is_kept_for_a_gradient():
    """None flows through routing."""
    query, kept = regions(4, 4, 2).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
        routing_index(query, query, 2, valid_size=(3, 4))
    assert not kept
