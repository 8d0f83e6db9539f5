"""Attention along the rows, then along the columns (axial attention).

Ho et al., Axial Attention in Multidimensional Transformers, arXiv 1912.12180, section 3.
"""

import torch
from torch import Tensor

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups


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
        value = attend_in_groups(qkv, self.num_heads)
        query_key = qkv[..., : 2 * self.embed_dims]
        columns = torch.cat([query_key, value], dim=-1).transpose(1, 2)
        return attend_in_groups(columns, self.num_heads).transpose(1, 2)
