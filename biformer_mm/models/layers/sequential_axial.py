"""Attention along the rows, then along the columns (axial attention).

Ho et al., Axial Attention in Multidimensional Transformers, arXiv 1912.12180, section 3.
"""

import torch
from torch import Tensor

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups
from .windows import cut, join


@register
class SequentialAxialAttention(BaseAttention):
    """Attention of each token to its row and, with the result as values, to its column.

    Both steps share queries and keys, so that the layer has as many parameters as the other
    attentions; two layers in sequence, as in the source, would have twice as many.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is not an integer of at least 1, or ``num_heads`` does not divide
            ``embed_dims``.
    """

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend along both axes: (N, H, W, 3*C) -> (N, H, W, C)."""
        height, width = qkv.shape[1:3]
        value = join(attend_in_groups(cut(qkv, (1, width)), self.num_heads)).flatten(3)
        qkv = torch.cat([qkv[..., : 2 * self.embed_dims], value], dim=-1)
        return join(attend_in_groups(cut(qkv, (height, 1)), self.num_heads)).flatten(3)
