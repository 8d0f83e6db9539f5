"""Cut maps into groups of tokens of one size, and mark what may attend to what.

Shapes: N batch, H x W map, C channels, a x b groups of h x w tokens, m heads.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.tracing import is_for_others


def pad_to_multiple(x: Tensor, size: int) -> Tensor:
    """Zero-pad an NHWC map at the right and at the bottom to multiples of a size."""
    bottom, right = -x.shape[1] % size, -x.shape[2] % size
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if may_differ((bottom, right), (0, 0)) else x


def may_differ(padded: Tuple[int, int], size: Tuple[int, int]) -> bool:
    """Return whether sizes differ, or may for other inputs of the graph that is exported."""
    if is_for_others() and not all(type(side) is int for side in (*padded, *size)):
        return True
    return padded != size


def cut(x: Tensor, size: Tuple[int, int]) -> Tensor:
    """View a map as groups of h x w neighbours: (N, H, W, C) -> (N, H/h, W/w, h, w, C)."""
    return x.unflatten(2, (-1, size[1])).unflatten(1, (-1, size[0])).transpose(2, 3)


def join(groups: Tensor) -> Tensor:
    """Join the groups of :func:`cut`: (N, H/h, W/w, h, w, ...) -> (N, H, W, ...)."""
    return groups.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def cut_grid(x: Tensor, size: Tuple[int, int]) -> Tensor:
    """View a map as groups of h x w tokens that lie H/h rows and W/w columns apart.

    Returns:
        (N, H/h, W/w, h, w, C).
    """
    return x.unflatten(2, (size[1], -1)).unflatten(1, (size[0], -1)).permute(0, 2, 4, 1, 3, 5)


def join_grid(groups: Tensor) -> Tensor:
    """Join the groups of :func:`cut_grid`: (N, H/h, W/w, h, w, ...) -> (N, H, W, ...)."""
    return groups.transpose(1, 3).transpose(2, 3).transpose(3, 4).flatten(3, 4).flatten(1, 2)


def same_part(parts: Tensor) -> Tensor:
    """Mark the pairs of tokens of the same part of the map.

    Args:
        parts: Number of the part that each token belongs to, cut into groups, (1, a, b, h, w, 1).

    Returns:
        0 where both tokens are of one part, else minus infinity; (a*b, 1, h*w, h*w).
    """
    parts = parts[0, ..., 0].flatten(2).flatten(0, 1)
    differ = parts[:, None, :, None] != parts[:, None, None, :]
    return torch.zeros(differ.shape, device=parts.device).masked_fill_(differ, float('-inf'))


def padding_parts(
    padded: Tuple[int, int], size: Tuple[int, int], device: torch.device
) -> Optional[Tensor]:
    """Number the tokens of a padded map, (1, H', W', 1): 0 on the map, 1 on the padding.

    Padding is a part of its own rather than forbidden: a token that could attend to nothing would
    be nan.

    Returns:
        The numbers; None if nothing is padded.
    """
    if not may_differ(padded, size):
        return None
    rows = torch.arange(padded[0], device=device)[:, None] >= size[0]
    cols = torch.arange(padded[1], device=device)[None] >= size[1]
    return (rows | cols).long()[None, :, :, None]


class RelativePositionBias(nn.Module):
    """A learned bias for each head and each offset within a window (Swin, section 3.2).

    Args:
        size: Side of the window in tokens, w.
        num_heads: Number of heads, m.
    """

    index: Tensor

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        place = torch.stack(
            torch.meshgrid(torch.arange(size), torch.arange(size), indexing='ij'), dim=-1
        ).flatten(0, 1)
        offset = place[:, None] - place[None] + size - 1
        index = offset[..., 0] * (2 * size - 1) + offset[..., 1]
        self.register_buffer('index', index, persistent=False)

    def forward(self) -> Tensor:
        """Return the bias of all pairs of a window's tokens, (1, m, w*w, w*w)."""
        return self.table[self.index].permute(2, 0, 1)[None]
