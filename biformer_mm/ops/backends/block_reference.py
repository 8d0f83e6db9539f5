"""The specification of the ops in :mod:`biformer_mm.ops.fused`, in plain PyTorch.

Shapes: N batch, H x W map, C channels, S regions per side.
"""

from typing import Tuple

import torch.nn.functional as F
from torch import Tensor

from ..region import crop, merge, partition
from ..tracing import is_compiling, is_traced
from .reference import region_attention


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise over the channels: (..., C) -> (..., C)."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_layer_norm(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tuple[Tensor, Tensor]:
    """Return the sum of two maps and the normalised sum, (..., C) each."""
    total = x + added
    return total, layer_norm(total, weight, bias, eps)


def add_depthwise(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
    """Add a depth-wise convolution of a map to another map.

    Args:
        x: (N, H', W', C), zero-padded by the convolution.
        weight: (C, 1, K, K), K odd.
        bias: (C).
        added: (N, H, W, C), not larger than ``x``.

    Returns:
        (N, H, W, C).
    """
    height, width = added.shape[1:3]
    out = F.conv2d(
        x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]
    )
    return out[:, :, :height, :width].permute(0, 2, 3, 1) + added


def attention_with_lce(
    qkv: Tensor,
    weight: Tensor,
    bias: Tensor,
    region_index: Tensor,
    num_regions: int,
    num_heads: int,
    scale: float,
    height: int,
    width: int,
    masked: bool,
) -> Tensor:
    """Attend to routed regions, and add local context enhancement (LCE) of the values.

    Args:
        qkv: Queries, keys and values of the padded map, (N, S*ceil(H/S), S*ceil(W/S), 3*C).
        weight: Weight of LCE's depth-wise convolution, (C, 1, K, K).
        bias: Bias of LCE's depth-wise convolution, (C).
        region_index: (N, S*S, k); see :func:`biformer_mm.ops.region_attention`.
        num_regions: Regions per side, S.
        num_heads: Number of heads, m.
        scale: Factor on the dot products before the softmax.
        height: Height of the map without padding, H.
        width: Width of the map without padding, W.
        masked: Leave the padding out everywhere. If False, attention uses it as keys, and LCE as
            values.

    Returns:
        (N, H, W, C).
    """
    padded = qkv.shape[1:3] != (height, width)
    query, key, value = (partition(x, num_regions) for x in qkv.chunk(3, dim=-1))
    out = region_attention(
        query,
        key,
        value,
        region_index,
        num_heads=num_heads,
        scale=scale,
        valid_size=(height, width) if padded else None,
        attend_padding=not masked,
    )
    return add_depthwise(
        lce_values(merge(value), weight, height, width, masked),
        weight,
        bias,
        merge(out)[:, :height, :width],
    )


def lce_values(value: Tensor, weight: Tensor, height: int, width: int, masked: bool) -> Tensor:
    """Crop a padded map to what LCE of an H x W map uses.

    That is the map and, unless ``masked``, the padding within reach of the kernel.
    """
    if (is_compiling() or is_traced()) and not masked:
        return value  # to crop would add guards and copies, and LCE ignores the rest anyway
    margin = 0 if masked else weight.shape[-1] // 2
    return crop(value, height + margin, width + margin)
