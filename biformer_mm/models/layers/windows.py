"""Cut maps into windows of a fixed size, and mark what may attend to what.

Shapes: N batch, H x W map, C channels, G windows of w x w tokens, m heads.
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


def cut_windows(x: Tensor, size: int) -> Tensor:
    """Cut a map into windows of neighbours: (N, H, W, C) -> (N, G, w*w, C)."""
    return _cut(x, (-1, size), (1, 3, 2, 4))


def join_windows(windows: Tensor, size: int, shape: Tuple[int, int]) -> Tensor:
    """Join windows of neighbours to a map: (N, G, w*w, C) -> (N, H, W, C)."""
    height, width = shape
    parts = windows.unflatten(1, (height // size, width // size)).unflatten(3, (size, size))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def cut_grid(x: Tensor, size: int) -> Tensor:
    """Cut a map into groups of w x w tokens that lie H/w rows and W/w columns apart.

    Returns:
        (N, G, w*w, C).
    """
    return _cut(x, (size, -1), (2, 4, 1, 3))


def join_grid(groups: Tensor, size: int, shape: Tuple[int, int]) -> Tensor:
    """Join the groups of :func:`cut_grid`: (N, G, w*w, C) -> (N, H, W, C)."""
    height, width = shape
    parts = groups.unflatten(1, (height // size, width // size)).unflatten(3, (size, size))
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2)


def _cut(x: Tensor, sizes: Tuple[int, int], order: Tuple[int, int, int, int]) -> Tensor:
    parts = x.unflatten(2, sizes).unflatten(1, sizes)
    return parts.permute(0, *order, 5).flatten(3, 4).flatten(1, 2)


def same_part(parts: Tensor) -> Tensor:
    """Mark the pairs of tokens of the same part of the map.

    Args:
        parts: Number of the part that each token belongs to, (G, T).

    Returns:
        0 where both tokens are of one part, else minus infinity; (G, 1, T, T).
    """
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
