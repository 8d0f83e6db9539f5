"""Cut a map into regions, and join them again.

Shapes: N batch, H x W map, C channels, S regions per side, h x w tokens per region. A padded map
has S*h x S*w tokens.
"""

import math
from functools import lru_cache
from typing import Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import is_traced


@lru_cache(maxsize=4096)
def auto_num_regions(height: int, width: int, channels: int, topk: int) -> int:
    """Return the number of regions per side at which routing attention costs least.

    The cost is that of equation 8 for the padded map. Its minimum is near equation 9's
    S = (k/2 * (H*W)**2)**(1/6), so the cost grows as (H*W)**(4/3).

    Args:
        height: Height of the map, H, in tokens.
        width: Width of the map, W, in tokens.
        channels: Channels, C.
        topk: Routed regions per region, k.

    Returns:
        S, between ceil(sqrt(k)), the least that has k regions, and the shorter side of the map.
    """

    def cost(s: int) -> float:
        tokens = s * -(-height // s) * s * -(-width // s)
        return (
            3 * tokens * channels**2 + 2 * s**4 * channels + 2 * topk * tokens**2 * channels / s**2
        )

    fewest = math.isqrt(topk - 1) + 1
    return min(range(fewest, max(fewest, min(height, width)) + 1), key=cost)


def pad_to_regions(x: Tensor, num_regions: int) -> Tensor:
    """Zero-pad a map at the right and at the bottom to multiples of S.

    Args:
        x: Map, (N, H, W, C).
        num_regions: Regions per side, S.

    Returns:
        (N, S*ceil(H/S), S*ceil(W/S), C); ``x`` itself if it has this size already.
    """
    height, width = x.shape[1:3]
    bottom, right = -height % num_regions, -width % num_regions
    if bottom + right == 0:  # one condition for torch.compile to guard, not two
        return x
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def pin_size(x: Tensor) -> Tensor:
    """Make a traced graph fail for maps of another H or W: (N, H, W, C) -> (N, H, W, C)."""
    n, height, width, channels = x.shape
    # One axis after the other, or a map of W x H would pass.
    x = x.reshape(n, height, int(width), channels)
    return x.view(n, int(height), int(width), channels)


def partition(x: Tensor, num_regions: int) -> Tensor:
    """Cut a map into S x S regions without copying it.

    Args:
        x: Map, (N, S*h, S*w, C), with any strides.
        num_regions: Regions per side, S.

    Returns:
        View of shape (N, S, S, h, w, C).
    """
    # Plain ops here and in merge(), which every layer calls: einops takes up to twice the time.
    if is_traced():  # unflatten() would make the ONNX exporter take all later sizes for constants
        n, height, _, channels = x.shape
        rows = x.view(n, height, num_regions, -1, channels)
        rows = rows.view(n, num_regions, -1, num_regions, rows.shape[3], channels)
    else:
        rows = x.unflatten(2, (num_regions, -1)).unflatten(1, (num_regions, -1))
    return rows.transpose(2, 3)


def merge(regions: Tensor) -> Tensor:
    """Join regions to a map: the inverse of :func:`partition`.

    Args:
        regions: (N, S, S, h, w, C).

    Returns:
        Map, (N, S*h, S*w, C); a view if the strides allow it, else a copy.
    """
    return regions.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Cut padding off: (N, H', W', C) -> (N, H, W, C)."""
    if is_traced() and x.shape[1] <= height and x.shape[2] <= width:
        return x  # in an ONNX runtime each slice is a copy of the map
    return x[:, :height, :width]


def valid_tokens(
    region_shape: Sequence[int], valid_size: Tuple[int, int], device: torch.device
) -> Tensor:
    """Return which tokens are on the map, and not padding.

    Args:
        region_shape: (Sh, Sw, h, w).
        valid_size: (H, W); tokens at or beyond it are padding.
        device: Device of the result.

    Returns:
        Bool, (Sh, Sw, h, w), True on the map.
    """
    rows_of_regions, cols_of_regions, h, w = region_shape
    rows = torch.arange(rows_of_regions * h, device=device) < valid_size[0]
    cols = torch.arange(cols_of_regions * w, device=device) < valid_size[1]
    return rows.view(rows_of_regions, 1, h, 1) & cols.view(1, cols_of_regions, 1, w)


def flat_index(region_index: Tensor) -> Tensor:
    """Return the positions of the routed regions among all N*R: (N, R, k) -> (N*R*k)."""
    batch, regions, _ = region_index.shape
    first = torch.arange(batch, device=region_index.device) * regions
    return (region_index + first.view(-1, 1, 1)).flatten()
