"""Attention from coarse to fine, each level within the best cells of the one before (QuadTree).

Tang et al., QuadTree Attention for Vision Transformers, ICLR 2022, section 3 (QuadTree-B).

Shapes: N batch, H x W map, C channels, m heads of d = C/m channels, B = N*m, T tokens of a level,
P parents of four tokens each, k tokens chosen.
"""

from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention
from .windows import may_differ, pad_to_multiple

LEVELS = (4, 3, 2, 1)  # by stage, as in the source


@register
class QuadTreeAttention(BaseAttention):
    """Attention on a pyramid of maps, each of half the size of the one below it.

    On the coarsest map a token attends to all. On each finer one it attends to the children of the
    k tokens that its parent attended to most, for each head. The results of all levels are added
    with learned weights. Padding is neither attended to nor counted.

    Queries, keys and values of a coarser map are averages of the finer one's, as in the paper. The
    source's code for classification makes the values with convolutions, and adds a depth-wise
    convolution of them (LePE).

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

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'QuadTreeAttention':
        """Choose the levels by the stage; at 224 pixels the coarsest map is 7 x 7 in all."""
        levels = LEVELS[min(stage, len(LEVELS) - 1)]
        return cls(embed_dims, num_heads, **{'num_levels': levels, **options})

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend from coarse to fine: (N, H, W, 3*C) -> (N, H, W, C)."""
        n, height, width, _ = qkv.shape
        depth = self.num_levels - 1
        on_map = pad_to_multiple(qkv.new_ones(1, height, width, 1), 2**depth)
        padded = pad_to_multiple(qkv, 2**depth)
        is_padded = may_differ((padded.shape[1], padded.shape[2]), (height, width))
        tokens = _to_tree(padded, depth).unflatten(-1, (3, self.num_heads, -1))
        tokens = tokens.permute(2, 0, 3, 1, 4).flatten(1, 2)  # (3, B, H*W, d)
        levels = _pyramid(tokens, _to_tree(on_map, depth).flatten(), depth)
        shares = self.level_weights.softmax(0)
        out, best = tokens.new_zeros(1, 1, 1), None  # of the level above
        for i, (level, count) in enumerate(levels):
            query, key, value, seen = _groups(level, best)
            scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
            if is_padded:
                scores = scores.masked_fill((count == 0)[seen][:, :, None], float('-inf'))
            message = scores.softmax(-1) @ value * shares[i]
            out = (message + out[:, :, None]).flatten(1, 2)
            if i < depth:
                place = scores.topk(min(self.topk, scores.shape[-1])).indices
                best = seen[:, :, None].expand_as(scores).gather(-1, place).flatten(1, 2)
        out = out.unflatten(0, (n, -1)).transpose(1, 2).flatten(2)
        return _from_tree(out, depth, padded.shape[1] // 2**depth)[:, :height, :width]


def _to_tree(x: Tensor, depth: int) -> Tensor:
    """List the tokens of a map so that the children of token i of a level are 4*i to 4*i + 3.

    Args:
        x: (N, H, W, C).
        depth: Levels above that of the map.

    Returns:
        (N, H*W, C).
    """
    for _ in range(depth):  # 2 x 2 tokens become one, with their channels in sequence
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
    return x.flatten(1, 2).unflatten(2, (4**depth, -1)).flatten(1, 2)


def _from_tree(x: Tensor, depth: int, rows: int) -> Tensor:
    """Invert :func:`_to_tree`: (N, H*W, C) -> (N, H, W, C), of ``rows`` on the coarsest level."""
    x = x.unflatten(1, (rows, -1, 4**depth)).flatten(3)
    for _ in range(depth):
        x = x.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x


def _pyramid(tokens: Tensor, count: Tensor, depth: int) -> List[Tuple[Tensor, Tensor]]:
    """Average the children of each token, level by level.

    Args:
        tokens: (3, B, T, d), zero on the padding.
        count: 1 for tokens of the map, 0 for padding, (T,).
        depth: Number of levels to add.

    Returns:
        For each level, from coarse to fine, the averages of tokens of the map, (3, B, T', d), and
        how many each is of, (T',).
    """
    levels = [(tokens, count)]
    for _ in range(depth):
        tokens = tokens.unflatten(2, (-1, 4)).sum(3)
        count = count.unflatten(0, (-1, 4)).sum(1)
        levels.append((tokens / count.clamp(min=1)[:, None], count))
    return levels[::-1]


def _groups(level: Tensor, best: Optional[Tensor]) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Group the queries of a level with the keys and values that they attend to.

    Args:
        level: (3, B, T, d).
        best: Parents whose children the four queries of a parent attend to, (B, P, k); None if all
            queries attend to all.

    Returns:
        Queries, (B, P, 4, d); keys and values, (B, P, 4*k, d); and the indices of the latter,
        (B, P, 4*k). Without parents (B, 1, T, d) and (1, 1, T).
    """
    query, key, value = level
    if best is None:
        seen = torch.arange(level.shape[2], device=level.device)
        return query[:, None], key[:, None], value[:, None], seen[None, None]
    batch, parents, _ = best.shape
    row = best + parents * torch.arange(batch, device=best.device)[:, None, None]
    # Children lie side by side, so each lookup copies four tokens.
    key, value = (
        F.embedding(row, x.reshape(batch * parents, -1)).unflatten(3, (4, -1)).flatten(2, 3)
        for x in (key, value)
    )
    seen = (4 * best[..., None] + torch.arange(4, device=best.device)).flatten(2)
    return query.unflatten(1, (-1, 4)), key, value, seen
