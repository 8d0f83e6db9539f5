"""Layers of the backbone, and attention as a plug-in for other networks."""

from inspect import signature
from typing import Any, Dict, Type

from .base_attention import BaseAttention
from .block_grid import BlockGridAttention
from .criss_cross import CrissCrossSelfAttention
from .cross_shaped_window import CrossShapedWindowAttention
from .deformable import DeformableAttention
from .full import GlobalAttention
from .quadtree import QuadTreeAttention
from .sequential_axial import SequentialAxialAttention
from .shifted_window import ShiftedWindowAttention
from .sliding_window import SlidingWindowAttention
from .spatially_separable import SpatiallySeparableAttention

ROUTING = 'bi_level_routing'
# The attentions beside bi-level routing, by their names in an architecture.
ATTENTIONS: Dict[str, Type[BaseAttention]] = {
    'full': GlobalAttention,
    'sliding_window': SlidingWindowAttention,
    'shifted_window': ShiftedWindowAttention,
    'spatially_separable': SpatiallySeparableAttention,
    'sequential_axial': SequentialAxialAttention,
    'criss_cross': CrissCrossSelfAttention,
    'cross_shaped_window': CrossShapedWindowAttention,
    'deformable': DeformableAttention,
    'block_grid': BlockGridAttention,
    'quadtree': QuadTreeAttention,
}


def build_attention(
    name: str, embed_dims: int, num_heads: int, stage: int, block: int, options: Dict[str, Any]
) -> BaseAttention:
    """Build the attention of a block of a network.

    Args:
        name: A key of :data:`ATTENTIONS`.
        embed_dims: Channels, C.
        num_heads: Number of heads, m.
        stage: Index of the stage, from 0.
        block: Index of the block in the stage, from 0.
        options: Arguments of the layer.

    Raises:
        ValueError: The layer has no such argument, or refuses its value.
    """
    known = set(signature(ATTENTIONS[name]).parameters) - {'embed_dims', 'num_heads'}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f'attention {name!r} takes the options {sorted(known)}; got {", ".join(unknown)}'
        )
    return ATTENTIONS[name].for_block(embed_dims, num_heads, stage, block, **options)
