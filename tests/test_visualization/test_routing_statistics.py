from types import SimpleNamespace

import numpy as np
import pytest

from biformer_mm.visualization import routing_statistics


def statistics(index, occupied=None):
    """Of a grid of 3 x 3 regions."""
    index = np.array(index)
    counts = np.ones(9) if occupied is None else np.array(occupied)
    return routing_statistics(
        SimpleNamespace(num_regions=3, index=index, occupied_tokens=lambda: counts)
    )


def test_each_to_itself():
    assert statistics([[i] for i in range(9)]) == pytest.approx(
        dict(entropy=1, self_routing=1, distance=0)
    )


def test_all_to_one():
    # Distances from the corner, in regions.
    to_corner = [np.hypot(i // 3, i % 3) for i in range(9)]
    assert statistics([[0]] * 9) == pytest.approx(
        dict(entropy=0, self_routing=1 / 9, distance=np.mean(to_corner) / np.hypot(2, 2))
    )


def test_two_targets_of_each():
    found = statistics([[i, (i + 1) % 9] for i in range(9)])
    assert found['entropy'] == pytest.approx(1)
    assert found['self_routing'] == 1
    # To the right neighbour, or to the start of the next row.
    steps = [1, 1, np.hypot(1, 2)] * 2 + [1, 1, np.hypot(2, 2)]
    assert found['distance'] == pytest.approx(sum(steps) / 18 / np.hypot(2, 2))


def test_uneven_use():
    found = statistics([[0]] * 6 + [[8]] * 3)
    expected = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(9)
    assert found['entropy'] == pytest.approx(expected)


def test_regions_in_the_padding_are_no_origins():
    on_map = [1, 1, 0, 1, 1, 0, 0, 0, 0]
    index = [[0] if here else [8] for here in on_map]
    assert statistics(index, on_map) == pytest.approx(
        dict(entropy=0, self_routing=1 / 4, distance=(1 + 1 + np.hypot(1, 1)) / 4 / np.hypot(2, 2))
    )
