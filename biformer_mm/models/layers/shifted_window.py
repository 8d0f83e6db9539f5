"""Attention in windows that are shifted in every other block (Swin Transformer).

Liu et al., Swin Transformer, ICCV 2021, sections 3.2 and 4.
"""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor, nn

from biformer_mm.ops.validation import check_int

from ..mmengine_compat import register
from .base_attention import BaseAttention, attend_in_groups
from .windows import RelativePositionBias, cut, join, may_differ, pad_to_multiple, same_part


@register
class ShiftedWindowAttention(BaseAttention):
    """Attention within windows of w x w tokens, with a relative position bias.

    The windows may be shifted to the lower right; what the shift brings together from opposite
    sides of the map does not attend to each other. Along a side that one window covers nothing is
    shifted. Padding is neither attended to nor counted, while Swin's code attends to it.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        window_size: Side of the windows in tokens, w.
        shift: Tokens by which the windows are shifted, below ``window_size``.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: A number is out of its range, or ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int = 7,
        shift: int = 0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias)
        self.window_size = check_int('window_size', window_size, 1)
        self.shift = check_int('shift', shift, 0)
        if shift >= window_size:
            raise ValueError(f'shift must be below window_size; got {shift=} and {window_size=}')
        self.bias = RelativePositionBias(window_size, num_heads)

    @classmethod
    def for_block(
        cls, embed_dims: int, num_heads: int, stage: int, block: int, **options: Any
    ) -> 'ShiftedWindowAttention':
        """Shift the windows of every other block by half of their side."""
        size = check_int('window_size', options.get('window_size', 7), 1)
        return cls(embed_dims, num_heads, **{'shift': block % 2 * (size // 2), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, H, W, C) -> (N, H, W, C), any H and W."""
        # Shifting before the projection moves a third of the channels; as in Swin's code, padding
        # is then projected, too.
        return self.proj(self._attend(x, self.qkv))

    def attend(self, qkv: Tensor) -> Tensor:
        """Attend within windows: (N, H, W, 3*C) -> (N, H, W, C)."""
        return self._attend(qkv, nn.Identity())

    def _attend(self, x: Tensor, project: nn.Module) -> Tensor:
        """Shift the map, project it, attend within windows, and shift back."""
        height, width = x.shape[1:3]
        size = self.window_size, self.window_size
        x = pad_to_multiple(x, self.window_size)
        padded = x.shape[1], x.shape[2]
        down, right = (self.shift if side > self.window_size else 0 for side in padded)
        bias = self.bias()
        parts = self._parts((height, width), padded, (down, right), x.device)
        if parts is not None:
            bias = bias + same_part(cut(parts, size))
        qkv = project(x.roll((-down, -right), (1, 2)) if down + right else x)
        out = attend_in_groups(cut(qkv, size), self.num_heads, bias.to(qkv.dtype))
        out = join(out).flatten(3)
        if down + right:
            out = out.roll((down, right), (1, 2))
        return out[:, :height, :width]

    def _parts(
        self,
        size: Tuple[int, int],
        padded: Tuple[int, int],
        shift: Tuple[int, int],
        device: torch.device,
    ) -> Optional[Tensor]:
        """Number the parts of the shifted map whose tokens may attend to each other.

        Returns:
            (1, H', W', 1); None if there is one part only.
        """
        if not may_differ(padded, size) and shift == (0, 0):
            return None
        axes = []
        for length, valid, by in zip(padded, size, shift):
            place = torch.arange(length, device=device)
            # In the last window the shift brings tokens of the first rows beside the last ones.
            wrapped = (place >= length - by).long()
            is_padding = ((place + by) % length >= valid).long()
            axes.append((wrapped, is_padding))
        (row_wrapped, row_padding), (col_wrapped, col_padding) = axes
        wrapped = 2 * row_wrapped[:, None] + col_wrapped[None]
        is_padding = row_padding[:, None] | col_padding[None]
        return (2 * wrapped + is_padding)[None, :, :, None]
