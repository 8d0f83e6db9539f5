"""What attention costs by formula (paper section 3.3, equations 8 and 9).

All counts are multiply-adds of one layer on one H x W map of C channels: a
multiplication and the addition that follows are one. S regions per side, k
routed regions.

Left out, as in the paper, is what all kinds have alike or what hardly counts:
the output projection (HWC^2), LCE (25HWC), softmax, region means and top-k.
"""

from typing import NamedTuple


class Terms(NamedTuple):
    """The terms of equation 8.

    Attributes:
        projection: Of queries, keys and values.
        routing: Affinity of all regions to all.
        attention: Of tokens to tokens: scores, and sums of values.
    """

    projection: int
    routing: int
    attention: int

    @property
    def total(self) -> int:
        return sum(self)


def routing_attention(height: int, width: int, channels: int, topk: int, num_regions: int) -> Terms:
    """Bi-level routing attention by equation 8,
    3HWC^2 + 2S^4C + 2k(HW)^2C/S^2.

    H and W are those of the map padded to multiples of S, which is what is
    computed on. The product of all regions' queries with all regions' keys
    takes S^4C multiply-adds; equation 8 counts it twice, and so does this.

    Args:
        height, width: Size of the map, H and W.
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
    """Equation 9, S = (k/2 (HW)^2)^(1/6), where equation 8 has its minimum.

    It is no whole number as a rule; for the best of those, padding counted,
    see :func:`biformer_mm.ops.auto_num_regions`. With it the cost grows as
    (HW)^(4/3).
    """
    return (topk / 2 * (height * width) ** 2) ** (1 / 6)


def full_attention(height: int, width: int, channels: int) -> int:
    """Attention of all tokens to all, 3HWC^2 + 2(HW)^2C."""
    tokens = height * width
    return 3 * tokens * channels**2 + 2 * tokens**2 * channels


def axial_attention(height: int, width: int, channels: int) -> int:
    """Attention along columns, then along rows, 3HWC^2 + 2HWC(H+W).

    Of Ho et al., "Axial attention in multidimensional transformers" (2019):
    a token attends to the H tokens of its column and to the W of its row. One
    set of projections serves both here, so that the kinds compare; two layers,
    one for each axis, take 3HWC^2 more. On a square map the cost grows as
    (HW)^(3/2).
    """
    tokens = height * width
    return 3 * tokens * channels**2 + 2 * tokens * channels * (height + width)
