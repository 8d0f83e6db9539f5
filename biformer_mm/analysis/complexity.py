"""The cost of attention by formula (paper section 3.3, equations 8 and 9).

All counts are multiply-adds of one layer on one H x W map of C channels: a
multiplication and the following addition count as one. S regions per side, k
routed regions.

As in the paper, parts that all kinds share or that hardly count are left out:
the output projection (HWC^2), LCE (25HWC), softmax, region means and top-k.
"""

from typing import NamedTuple


class Terms(NamedTuple):
    """The terms of equation 8.

    Attributes:
        projection: Projection to queries, keys and values.
        routing: Affinities between all regions.
        attention: Scores between tokens, and weighted sums of values.
    """

    projection: int
    routing: int
    attention: int

    @property
    def total(self) -> int:
        """Sum of the terms."""
        return sum(self)


def routing_attention(height: int, width: int, channels: int, topk: int, num_regions: int) -> Terms:
    """Count bi-level routing attention, equation 8: 3HWC^2 + 2S^4C + 2k(HW)^2C/S^2.

    H and W are padded to multiples of S, as in the computation. The product of
    all regions' queries and keys takes S^4C multiply-adds; equation 8 counts it
    twice, and so does this function.

    Args:
        height: Height of the map, H.
        width: Width of the map, W.
        channels: Channels, C.
        topk: Routed regions per region, k.
        num_regions: Regions per side, S.

    Raises:
        ValueError: There are fewer than k regions.
    """
    if not 1 <= topk <= num_regions**2:
        raise ValueError(
            'topk must be between 1 and the number of regions, '
            f'num_regions**2; got {topk=} with {num_regions=}'
        )
    h, w = -(-height // num_regions), -(-width // num_regions)
    tokens = num_regions**2 * h * w
    return Terms(
        projection=3 * tokens * channels**2,
        routing=2 * num_regions**4 * channels,
        attention=2 * tokens * topk * h * w * channels,
    )


def best_num_regions(height: int, width: int, topk: int) -> float:
    """Return S = (k/2 (HW)^2)^(1/6), equation 9, which minimises equation 8.

    It is usually not an integer; :func:`biformer_mm.ops.auto_num_regions`
    returns the best integer, counting padding. With it the cost grows as
    (HW)^(4/3).
    """
    return (topk / 2 * (height * width) ** 2) ** (1 / 6)


def full_attention(height: int, width: int, channels: int) -> int:
    """Count attention between all tokens, 3HWC^2 + 2(HW)^2C."""
    tokens = height * width
    return 3 * tokens * channels**2 + 2 * tokens**2 * channels


def axial_attention(height: int, width: int, channels: int) -> int:
    """Count attention along columns, then along rows, 3HWC^2 + 2HWC(H+W).

    A token attends to the H tokens of its column and the W tokens of its row
    (Ho et al., "Axial attention in multidimensional transformers", 2019). Both
    share one set of projections here, for comparison with the other kinds; one
    layer per axis takes 3HWC^2 more. On a square map the cost grows as
    (HW)^(3/2).
    """
    tokens = height * width
    return 3 * tokens * channels**2 + 2 * tokens * channels * (height + width)
