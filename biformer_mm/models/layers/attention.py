"""The two attentions of BiFormer, NHWC in and out.

Shapes: N batch, H x W map, C channels, S regions per side, k routed regions, m heads.
"""

from typing import Any, Dict, Sequence, Tuple, Union

import torch
from torch import Tensor, fx, nn

from biformer_mm.ops import (
    auto_num_regions,
    fused,
    merge,
    pad_to_regions,
    partition,
    region_attention,
    routing_index,
)
from biformer_mm.ops.backends.block_reference import lce_values
from biformer_mm.ops.dispatch import check_backend_name, resolve_backend
from biformer_mm.ops.region import crop, pin_size
from biformer_mm.ops.tracing import is_symbolic, is_traced
from biformer_mm.ops.validation import check_choice, check_int, check_multiple

from ..mmengine_compat import register
from .basic import DepthwiseConv, add_conv, is_plain

PADDINGS = ('legacy', 'masked')
LCE_SIZE = 5  # kernel size of local context enhancement, in tokens


@register
class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention, BRA (paper section 3.2).

    Each query attends to all tokens of the k regions whose descriptors best match that of its own
    region. A depth-wise convolution of the values (local context enhancement, LCE) is added before
    the output projection.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        num_regions: Regions per side, S. 'auto' chooses S for each map size, near equation 9; see
            :func:`biformer_mm.ops.auto_num_regions`.
        topk: Routed regions per region, k.
        padding: How to handle maps whose size is not a multiple of S. 'legacy', for the released
            weights, appends zeros to the layer's input and treats them as tokens. 'masked' leaves
            the padding out of routing, attention and LCE.
        attn_backend: Backend of :func:`biformer_mm.ops.region_attention`.

    Raises:
        ValueError: A number is not an integer of at least 1, ``num_heads`` does not divide
            ``embed_dims``, ``topk`` is more than S*S, or ``padding`` or ``attn_backend`` is
            unknown.

    Note:
        The softmax scale is C**-0.5, not the usual (C/m)**-0.5, because the released weights were
        trained with it.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_regions: Union[int, str],
        topk: int,
        padding: str = 'legacy',
        attn_backend: str = 'auto',
    ) -> None:
        super().__init__()
        embed_dims, num_heads = check_multiple('embed_dims', embed_dims, 'num_heads', num_heads)
        if not isinstance(num_regions, str):
            num_regions = check_int('num_regions', num_regions, 1)
        elif num_regions != 'auto':
            raise ValueError(f"num_regions must be an integer or 'auto'; got {num_regions!r}")
        topk = check_int('topk', topk)
        if topk < 1 or isinstance(num_regions, int) and topk > num_regions**2:
            raise ValueError(
                'topk must be between 1 and the number of regions, '
                f'num_regions**2; got {topk=} with {num_regions=} (None '
                'stands for full attention)'
            )
        check_choice('padding', padding, PADDINGS)
        check_backend_name(attn_backend)
        self.num_heads = num_heads
        self.num_regions = num_regions
        self.topk = topk
        self.padding = padding
        self.attn_backend = attn_backend
        self.embed_dims = embed_dims

        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.lce = DepthwiseConv(embed_dims, LCE_SIZE)
        self.proj = nn.Linear(embed_dims, embed_dims)

    @property
    def scale(self) -> float:
        """Factor on the dot products before the softmax.

        A property, because torch.compile makes a float attribute that differs between layers an
        input of the graph.
        """
        return self.embed_dims**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Apply routed attention.

        Args:
            x: (N, H, W, C), any H and W.

        Returns:
            (N, H, W, C).
        """
        height, width = x.shape[1], x.shape[2]
        masked = self.padding == 'masked'
        qkv = self.project(x)
        if is_symbolic(x):
            out = attend_to_regions(
                qkv,
                height,
                width,
                self.num_regions,
                self.topk,
                self.num_heads,
                self.scale,
                masked,
                self.attn_backend,
            )
        else:
            inputs = self.attention_inputs(qkv, (height, width))
            backend = resolve_backend(self.attn_backend, inputs['query'], self.num_heads)
            if backend == 'triton' and x.shape[0] and is_plain(self.lce, DepthwiseConv):
                out = fused.attention_with_lce(
                    qkv,
                    self.lce.weight,
                    self.lce.bias,
                    inputs['region_index'],
                    inputs['query'].shape[1],
                    self.num_heads,
                    self.scale,
                    height,
                    width,
                    masked,
                )
                return self.proj(out)
            out = crop(merge(region_attention(**inputs, backend=backend)), height, width)
        value = qkv.split(self.embed_dims, dim=-1)[2]
        value = lce_values(value, self.lce.weight, height, width, masked)
        return self.proj(add_conv(self.lce, value, out))

    def project(self, x: Tensor) -> Tensor:
        """Pad a map to whole regions, and project it to queries, keys and values.

        Args:
            x: (N, H, W, C).

        Returns:
            (N, S*ceil(H/S), S*ceil(W/S), 3*C).
        """
        return self.qkv(pad_map(x, self.num_regions, self.topk))

    def attention_inputs(self, qkv: Tensor, size: Tuple[int, int]) -> Dict[str, Any]:
        """Cut queries, keys and values into regions, and route.

        Args:
            qkv: The result of :meth:`project`.
            size: (H, W) of the map without padding.

        Returns:
            The arguments of :func:`biformer_mm.ops.region_attention`, by name.
        """
        return _route(
            qkv,
            size,
            self.num_regions,
            self.topk,
            self.num_heads,
            self.scale,
            self.padding == 'masked',
        )


# torch.fx cannot follow what depends on sizes: it records calls of the functions that are wrapped.
@fx.wrap
def pad_map(x: Tensor, num_regions: Union[int, str], topk: int) -> Tensor:
    """Pad a map to whole regions: (N, H, W, C) -> (N, S*ceil(H/S), S*ceil(W/S), C).

    A traced graph with ``num_regions`` 'auto' fails at other sizes, which may need another S.
    """
    if num_regions == 'auto' and is_traced():
        x = pin_size(x)
    return pad_to_regions(x, _regions_per_side(num_regions, x.shape[1:3], int(x.shape[3]), topk))


@fx.wrap
def attend_to_regions(
    qkv: Tensor,
    height: int,
    width: int,
    num_regions: Union[int, str],
    topk: int,
    num_heads: int,
    scale: float,
    masked: bool,
    backend: str,
) -> Tensor:
    """Route and attend, without LCE.

    Args:
        qkv: Queries, keys and values of the padded map, (N, S*ceil(H/S), S*ceil(W/S), 3*C).
        height: Height of the map without padding, H.
        width: Width of the map without padding, W.
        num_regions: Regions per side, S, or 'auto'.
        topk: Routed regions per region, k.
        num_heads: Number of heads, m.
        scale: Factor on the dot products before the softmax.
        masked: Leave the padding out.
        backend: Backend of :func:`biformer_mm.ops.region_attention`.

    Returns:
        (N, H, W, C).
    """
    inputs = _route(qkv, (height, width), num_regions, topk, num_heads, scale, masked)
    return crop(merge(region_attention(**inputs, backend=backend)), height, width)


def _route(
    qkv: Tensor,
    size: Tuple[int, int],
    num_regions: Union[int, str],
    topk: int,
    num_heads: int,
    scale: float,
    masked: bool,
) -> Dict[str, Any]:
    """See :meth:`BiLevelRoutingAttention.attention_inputs`."""
    channels = int(qkv.shape[3]) // 3  # an int in traced graphs, too
    num_regions = _regions_per_side(num_regions, size, channels, topk)
    # A sum, as one condition for torch.compile to guard, not two.
    padded = qkv.shape[1] + qkv.shape[2] != size[0] + size[1]
    masked = padded and masked
    query, key, value = (partition(x, num_regions) for x in qkv.split(channels, dim=-1))
    return dict(
        query=query,
        key=key,
        value=value,
        region_index=routing_index(query, key, topk, size if masked else None),
        num_heads=num_heads,
        scale=scale,
        valid_size=size if padded else None,
        attend_padding=not masked,
    )


def _regions_per_side(
    num_regions: Union[int, str], size: Sequence[int], channels: int, topk: int
) -> int:
    if isinstance(num_regions, int):
        return num_regions
    height, width = size
    if is_traced():  # where sizes are tensors
        height, width = int(height), int(width)
    return auto_num_regions(height, width, channels, topk)


class FullAttention(nn.Module):
    """Attention of all tokens to all tokens, with LCE: the last stage of BiFormer.

    Unlike :class:`BiLevelRoutingAttention` it has no bias on queries, keys and values, it has the
    usual softmax scale (C/m)**-0.5, and its LCE convolves the layer's input. The released weights
    need all of this.

    Args:
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        attn_backend: Backend of :func:`biformer_mm.ops.region_attention`.

    Raises:
        ValueError: A number is not an integer of at least 1, ``num_heads`` does not divide
            ``embed_dims``, or ``attn_backend`` is unknown.
    """

    def __init__(self, embed_dims: int, num_heads: int = 8, attn_backend: str = 'auto') -> None:
        super().__init__()
        embed_dims, num_heads = check_multiple('embed_dims', embed_dims, 'num_heads', num_heads)
        check_backend_name(attn_backend)
        self.num_heads = num_heads
        self.attn_backend = attn_backend
        self.embed_dims = embed_dims

        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=False)
        self.lce = DepthwiseConv(embed_dims, LCE_SIZE)
        self.proj = nn.Linear(embed_dims, embed_dims)

    @property
    def scale(self) -> float:
        """Factor on the dot products; see :attr:`BiLevelRoutingAttention.scale`."""
        return (self.embed_dims // self.num_heads) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        """Apply full attention: (N, H, W, C) -> (N, H, W, C), any H and W."""
        out = attend_to_all(self.project(x), self.num_heads, self.scale, self.attn_backend)
        return self.proj(add_conv(self.lce, x, out))

    def project(self, x: Tensor) -> Tensor:
        """Project to queries, keys and values: (N, H, W, C) -> (N, H, W, 3*C)."""
        return self.qkv(x)

    def attention_inputs(self, qkv: Tensor, size: Tuple[int, int]) -> Dict[str, Any]:
        """See :meth:`BiLevelRoutingAttention.attention_inputs`."""
        return _one_region(qkv, self.num_heads, self.scale)


@fx.wrap
def attend_to_all(qkv: Tensor, num_heads: int, scale: float, backend: str) -> Tensor:
    """Let all tokens attend to all: (N, H, W, 3*C) -> (N, H, W, C)."""
    return merge(region_attention(**_one_region(qkv, num_heads, scale), backend=backend))


def _one_region(qkv: Tensor, num_heads: int, scale: float) -> Dict[str, Any]:
    channels = int(qkv.shape[3]) // 3
    query, key, value = (partition(x, 1) for x in qkv.split(channels, dim=-1))
    return dict(
        query=query,
        key=key,
        value=value,
        region_index=torch.zeros(qkv.shape[0], 1, 1, dtype=torch.long, device=qkv.device),
        num_heads=num_heads,
        scale=scale,
    )
