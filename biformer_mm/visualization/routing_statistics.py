"""Summarise routing in a few numbers, to follow during training."""

from typing import Dict

import numpy as np

from .recording import BlockRouting


def routing_statistics(routing: BlockRouting) -> Dict[str, float]:
    """Measure how evenly and how far a block's regions route.

    Query regions that lie entirely in the padding do not count.

    Args:
        routing: Of one block on one image.

    Returns:
        Three numbers between 0 and 1. ``entropy``: of how often each region is
        routed to, divided by its maximum, log(S*S); 1 means all equally often,
        0 always the same one. ``self_routing``: share of the regions that route
        to themselves. ``distance``: mean distance between the centres of a
        region and its routed regions, divided by the grid's diagonal,
        (S - 1) * sqrt(2) regions.
    """
    size = routing.num_regions
    origins = np.flatnonzero(routing.occupied_tokens())
    targets = routing.index[origins]
    use = np.unique(targets, return_counts=True)[1] / targets.size
    rows, cols = np.divmod(targets, size)
    away = np.hypot(rows - origins[:, None] // size, cols - origins[:, None] % size)
    return dict(
        entropy=float(-(use * np.log(use)).sum() / np.log(max(size, 2) ** 2)),
        self_routing=float((targets == origins[:, None]).any(axis=1).mean()),
        distance=float(away.mean() / max((size - 1) * 2**0.5, 1)),
    )
