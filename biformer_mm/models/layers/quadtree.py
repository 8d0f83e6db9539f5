"""Attention from coarse to fine, each level within the best cells of the one before (QuadTree).

Tang et al., QuadTree Attention for Vision Transformers, ICLR 2022, section 3 (QuadTree-B).
"""

from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention
from .windows import pad_to_multiple


@register
class QuadTreeAttention(BaseAttention):
    """Attention on a pyramid of maps, each of half the size of the one below it.

    On the coarsest map a token attends to all. On each finer one it attends to the children of the
    k tokens that its parent attended to most, for each head. The results of all levels are added
    with learned weights. Padding is neither attended to nor counted.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        topk: Tokens whose children are attended to, k.
        num_levels: Number of levels.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is not an integer of at least 1, or ``num_heads`` does not divide
            ``embed_dims``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        topk: int = 8,
        num_levels: int = 3,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias)
        self.topk = check_int('topk', topk, 1)
        self.num_levels = check_int('num_levels', num_levels, 1)
        self.level_weights = nn.Parameter(torch.zeros(num_levels))

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend from coarse to fine: (N, H, W, 3*C) -> (N, H, W, C)."""
        height, width = qkv.shape[1:3]
        pyramid = self._pyramid(qkv)
        shares = self.level_weights.softmax(0)
        out, best = None, None
        for share, (level, valid) in zip(shares, reversed(pyramid)):
            message, best = self._attend_on(level, valid, best)
            finer = message * share
            out = finer if out is None else finer + _to_children(out)
        return out[:, :height, :width]

    def _pyramid(self, qkv: Tensor) -> List[Tuple[Tensor, Tensor]]:
        """Average 2 x 2 tokens again and again; from fine to coarse.

        Returns:
            For each level the map, (N, H, W, 3*C), and the share of each token that is on the map
            and not padding, (1, H, W, 1).
        """
        valid = pad_to_multiple(qkv.new_ones(1, *qkv.shape[1:3], 1), 2 ** (self.num_levels - 1))
        levels = [(pad_to_multiple(qkv, 2 ** (self.num_levels - 1)), valid)]
        for _ in range(self.num_levels - 1):
            below, valid = levels[-1]
            share = _halve(valid)
            levels.append((_halve(below * valid) / share.clamp(min=1e-6), share))
        return levels

    def _attend_on(self, qkv: Tensor, valid: Tensor, best: Tensor) -> Tuple[Tensor, Tensor]:
        """Attend on one level.

        Args:
            qkv: (N, H, W, 3*C).
            valid: Above 0 on the map, (1, H, W, 1).
            best: Tokens of the coarser level that its tokens attended to most,
                (N, m, H/2, W/2, k); None on the coarsest.

        Returns:
            The result, (N, H, W, C), and the tokens that were attended to most,
            (N, m, H, W, k).
        """
        n, height, width, _ = qkv.shape
        heads = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)
        query, key, value = heads.flatten(3, 4)  # (N, m, H*W, d) each
        is_padding = valid.flatten() == 0
        scale = query.shape[-1] ** -0.5
        if best is None:
            scores = query @ key.transpose(-1, -2) * scale
            weights = scores.masked_fill(is_padding, float('-inf')).softmax(-1)
            out = weights @ value
            found = weights.topk(min(self.topk, weights.shape[-1]), dim=-1).indices
        else:
            index = _children_of(best, width)  # (N, m, H*W, 4*k)
            flat = index.flatten(2)[..., None].expand(-1, -1, -1, query.shape[-1])
            near = key.gather(2, flat).unflatten(2, index.shape[2:])
            scores = (near @ query[..., None])[..., 0] * scale
            weights = scores.masked_fill(is_padding[index], float('-inf')).softmax(-1)
            near = value.gather(2, flat).unflatten(2, index.shape[2:])
            out = (weights[..., None, :] @ near)[..., 0, :]
            place = weights.topk(min(self.topk, weights.shape[-1]), dim=-1).indices
            found = index.gather(-1, place)
        out = out.transpose(1, 2).flatten(2).unflatten(1, (height, width))
        return out, found.unflatten(2, (height, width))


def _halve(x: Tensor) -> Tensor:
    """Average 2 x 2 tokens: (N, H, W, C) -> (N, H/2, W/2, C)."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _to_children(x: Tensor) -> Tensor:
    """Repeat each token for its four children: (N, H, W, C) -> (N, 2*H, 2*W, C)."""
    return x.repeat_interleave(2, 1).repeat_interleave(2, 2)


def _children_of(best: Tensor, width: int) -> Tensor:
    """List the tokens that the children of each token attend to.

    Args:
        best: Tokens that each attended to most, as row * W/2 + column, (N, m, H/2, W/2, k).
        width: W, of the finer level.

    Returns:
        As row * W + column, (N, m, H*W, 4*k).
    """
    row, column = best // (width // 2), best % (width // 2)
    first = 2 * row * width + 2 * column
    children = torch.stack([first, first + 1, first + width, first + width + 1], dim=-1).flatten(-2)
    return children.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2, 3)
