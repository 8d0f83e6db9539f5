"""Attention of all tokens to all tokens (ViT).

Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, appendix A.
"""

from torch import Tensor, fx

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups


@register
class GlobalAttention(BaseAttention):
    """Attention of all tokens of a map to all.

    :class:`biformer_mm.models.layers.attention.FullAttention`, of BiFormer's last stage, adds a
    convolution and has no bias on queries, keys and values.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is not an integer of at least 1, or ``num_heads`` does not divide
            ``embed_dims``.
    """

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend to all tokens: (N, H, W, 3*C) -> (N, H, W, C)."""
        return attend_to_all(qkv, self.num_heads)


@fx.wrap  # torch.fx records the call, as it cannot follow what depends on sizes
def attend_to_all(qkv: Tensor, num_heads: int) -> Tensor:
    """Let all tokens attend to all: (N, H, W, 3*C) -> (N, H, W, C)."""
    return attend_in_groups(qkv[:, None, None], num_heads)[:, 0, 0].flatten(3)
