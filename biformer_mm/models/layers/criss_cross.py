"""Attention to the row and the column of each token (CCNet).

Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019, section 3.2.
"""

import torch
from torch import Tensor

from ..mmengine_compat import register
from .base_attention import BaseAttention


@register
class CrissCrossSelfAttention(BaseAttention):
    """Attention of each token to the H + W - 1 tokens of its row and its column.

    Both are in one softmax, in which the token itself counts once.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is not an integer of at least 1, or ``num_heads`` does not divide
            ``embed_dims``.
    """

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend to rows and columns: (N, H, W, 3*C) -> (N, H, W, C)."""
        n, height, width, _ = qkv.shape
        parts = qkv.view(n, height, width, 3, self.num_heads, -1).permute(3, 0, 4, 1, 2, 5)
        query, key, value = parts.unbind()  # (N, m, H, W, d) each
        query = query * query.shape[-1] ** -0.5
        rows = query @ key.transpose(3, 4)  # (N, m, H, W, W)
        columns = query.transpose(2, 3) @ key.permute(0, 1, 3, 4, 2)  # (N, m, W, H, H)
        itself = torch.eye(height, dtype=torch.bool, device=qkv.device)
        columns = columns.masked_fill(itself, float('-inf')).transpose(2, 3)
        weights = torch.cat([rows, columns], dim=-1).softmax(dim=-1)
        to_row, to_column = weights.split([width, height], dim=-1)
        out = to_row @ value
        out = out + (to_column.transpose(2, 3) @ value.transpose(2, 3)).transpose(2, 3)
        return out.permute(0, 2, 3, 1, 4).flatten(3)
