"""The base of the attentions beside bi-level routing: projections, heads, output.

Shapes: N batch, H x W map, C channels, m heads of d = C/m channels, T tokens that attend
to K tokens.
"""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.ops.tracing import is_for_others
from biformer_mm.ops.validation import check_bool, check_multiple


class BaseAttention(nn.Module):
    """Project a map to queries, keys and values, attend, and project the result.

    A subclass implements :meth:`attend`. The softmax scale is the usual d**-0.5.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is not an integer of at least 1, or ``num_heads`` does not divide
            ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.embed_dims, self.num_heads = check_multiple(
            'embed_dims', embed_dims, 'num_heads', num_heads
        )
        check_bool('qkv_bias', qkv_bias)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'BaseAttention':
        """Build the attention of a block of a network.

        A subclass whose blocks differ overrides this.

        Args:
            embed_dims: Channels, C.
            num_heads: Number of heads, m.
            stage: Index of the stage, from 0.
            block: Index of the block in the stage, from 0.
            options: Other arguments of the class.
        """
        return cls(embed_dims, num_heads, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, H, W, C) -> (N, H, W, C), any H and W."""
        return self.proj(self.attend(self.qkv(x)))

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend with projected tokens: (N, H, W, 3*C) -> (N, H, W, C)."""
        raise NotImplementedError

    def queries(self, x: Tensor) -> Tensor:
        """Project to queries only: (..., C) -> (..., C)."""
        return self._project(x, slice(None, self.embed_dims))

    def keys_values(self, x: Tensor) -> Tensor:
        """Project to keys and values only: (..., C) -> (..., 2*C)."""
        return self._project(x, slice(self.embed_dims, None))

    def _project(self, x: Tensor, part: slice) -> Tensor:
        bias = None if self.qkv.bias is None else self.qkv.bias[part]
        return F.linear(x, self.qkv.weight[part], bias)


def attend_in_groups(qkv: Tensor, num_heads: int, bias: Optional[Tensor] = None) -> Tensor:
    """Let the tokens of each group attend to one another.

    Groups and heads share an axis, so that one mask serves the whole batch without a copy.

    Args:
        qkv: a x b groups of h x w tokens, (N, a, b, h, w, 3*C), such as the views that
            :func:`biformer_mm.models.layers.windows.cut` gives.
        num_heads: Number of heads, m.
        bias: What to add to the dot products, (a*b or 1, m or 1, h*w, h*w).

    Returns:
        (N, a, b, h, w, m, d), which joins to a map of C = m*d channels without another copy.
    """
    n, rows, columns, height, width, _ = qkv.shape
    heads = qkv.unflatten(-1, (3, num_heads, -1)).permute(5, 0, 1, 2, 6, 3, 4, 7)
    groups, tokens = rows * columns * num_heads, height * width
    query, key, value = heads.reshape(3, n, groups, tokens, heads.shape[-1])
    if bias is not None:
        bias = bias.expand(rows * columns, num_heads, tokens, tokens).flatten(0, 1)[None]
    out = dot_product_attention(query, key, value, bias)
    out = out.view(n, rows, columns, num_heads, height, width, -1)
    return out.permute(0, 1, 2, 4, 5, 3, 6)


def attend_to(
    query: Tensor, keys_values: Tensor, num_heads: int, bias: Optional[Tensor] = None
) -> Tensor:
    """Let tokens attend to other tokens.

    Args:
        query: (N, T, C).
        keys_values: (N, K, 2*C).
        num_heads: Number of heads, m.
        bias: What to add to the dot products, (N or 1, m or 1, T, K).

    Returns:
        (N, T, C).
    """
    query = query.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    key, value = keys_values.unflatten(-1, (2, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """Attend by PyTorch's fused attention, (..., T, d) to (..., K, d), in a form that exports."""
    if bias is not None and bias.requires_grad and query.device.type == 'cpu':
        # There the fused attention has no gradient of the bias, and what PyTorch does instead is
        # slower than this.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + bias
        return scores.softmax(-1) @ value
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    # The operations that it is exported as lay their result out in another order than this call,
    # and what follows was recorded for this order.
    return out.clone(memory_format=torch.contiguous_format) if is_for_others() else out
