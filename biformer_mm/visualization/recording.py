"""Record where a network looks: routing and attention of its blocks on an image.

Attentions without regions are recorded as one region that is routed to itself.

Shapes: H x W tokens of a map, S regions per side, R = S*S regions of h x w
tokens, T = h*w, k routed regions, m heads.
"""

from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from typing import Dict, Iterator, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from biformer_mm.models import BiFormer
from biformer_mm.models.compiling import eagerly
from biformer_mm.models.layers import ATTENTIONS
from biformer_mm.models.layers.attention import FullAttention
from biformer_mm.models.layers.base_attention import BaseAttention
from biformer_mm.models.layers.basic import DepthwiseConv
from biformer_mm.models.layers.deformable import DeformableAttention
from biformer_mm.ops.backends.reference import region_attention_with_weights
from biformer_mm.utils.errors import UsageError


class BlockRouting:
    """Routing and attention of one block on one image.

    Tokens are given by row and column of the map, pixels by x and y of the
    network's input.

    Attributes:
        attention: Kind of attention, such as 'bi-level routing' or 'full'.
        stage: The block's stage, from 1.
        block: The block's number in its stage, from 1.
        num_blocks: Number of blocks in the stage.
        stride: Pixels per token.
        image_size: Height and width of the network's input, in pixels.
        map_size: (H, W).
        region_size: (h, w).
        num_regions: S.
        topk: k; None for attention without regions.
        num_heads: m.
        index: (R, k) int64, the regions that each region attends to, by
            descending affinity.
    """

    def __init__(
        self,
        attn: nn.Module,
        x: Tensor,
        stage: int,
        block: int,
        num_blocks: int,
        image_size: Tuple[int, int],
    ) -> None:
        self.stage, self.block, self.num_blocks = stage, block, num_blocks
        self.stride = 2 ** (stage + 1)
        self.image_size = tuple(image_size)
        self.map_size = tuple(x.shape[1:3])
        self.num_heads = attn.num_heads
        self._record(attn, x)

    def _record(self, attn: nn.Module, x: Tensor) -> None:
        """Record what depends on the kind of attention, from the map x."""
        self.attention = 'full' if isinstance(attn, FullAttention) else 'bi-level routing'
        self.topk = getattr(attn, 'topk', None)
        self._inputs = attn.attention_inputs(attn.project(x), self.map_size)
        self.num_regions = self._inputs['query'].shape[1]
        self.region_size = tuple(self._inputs['query'].shape[3:5])
        self.index = self._inputs['region_index'][0].cpu().numpy()

    @cached_property
    def weights(self) -> np.ndarray:
        """Attention weights, (R, m, T, k*T), fp32, by the reference backend.

        Entry [i, :, t, j*T+s] is the weight of token s of region ``index[i, j]``
        for token t of region i. A row sums to 1; the row of a query in the
        padding is zero.
        """
        weights = region_attention_with_weights(**self._inputs)[1]
        return weights[0].float().cpu().numpy()

    @cached_property
    def strength(self) -> np.ndarray:
        """Share of a region's attention that each routed region gets, (R, k).

        The mean over the heads and over the region's tokens on the map. A row
        sums to 1; the row of a region in the padding is zero.
        """
        per_region = self.weights.reshape(*self.weights.shape[:3], self.index.shape[1], -1).sum(-1)
        queries = self.occupied_tokens()  # rows of the padding are zero
        return per_region.sum(axis=(1, 2)) / np.maximum(queries * self.num_heads, 1)[:, None]

    def attention_of(self, tokens: np.ndarray) -> np.ndarray:
        """Return the attention of tokens to the tokens of their routed regions.

        Args:
            tokens: Row and column of each, (n, 2).

        Returns:
            (n, m, k*T), fp32, in the order of :attr:`weights`.
        """
        rows, cols = np.transpose(tokens)
        h, w = self.region_size
        return self.weights[self.region_of(rows, cols), :, rows % h * w + cols % w]

    def occupied_tokens(self) -> np.ndarray:
        """Count the tokens of each region that lie on the map, (R,)."""
        rows, cols = (
            np.clip(size - np.arange(self.num_regions) * length, 0, length)
            for size, length in zip(self.map_size, self.region_size)
        )
        return np.outer(rows, cols).ravel()

    def token_at(self, x: float, y: float) -> Tuple[int, int]:
        """Return row and column of the token at a pixel."""
        return tuple(
            min(max(int(position) // self.stride, 0), size - 1)
            for position, size in zip((y, x), self.map_size)
        )

    def region_of(self, row: int, col: int) -> int:
        """Return the region of a token."""
        h, w = self.region_size
        return row // h * self.num_regions + col // w

    def region_box(self, region: int) -> Tuple[int, int, int, int]:
        """Return left, top, right and bottom of a region on the image, in pixels.

        The box of a region in the padding has no width or height.
        """
        row, col = divmod(int(region), self.num_regions)
        h, w = (length * self.stride for length in self.region_size)
        height, width = self.image_size
        return (
            min(col * w, width),
            min(row * h, height),
            min((col + 1) * w, width),
            min((row + 1) * h, height),
        )

    def heat_map(self, row: int, col: int) -> np.ndarray:
        """Return the attention of one token to all tokens of the map.

        Args:
            row: Row of the token.
            col: Column of the token.

        Returns:
            (m, H, W), fp32, zero outside the routed regions. The sum of each
            head is 1, minus the attention to padding that counts as tokens.
        """
        h, w = self.region_size
        region = self.region_of(row, col)
        given = self.attention_of([(row, col)]).reshape(self.num_heads, -1, h, w)
        s = self.num_regions
        out = np.zeros((self.num_heads, s, h, s, w), np.float32)
        for j, routed in enumerate(self.index[region]):
            # Add up: the index may list a region twice.
            out[:, routed // s, :, routed % s] += given[:, j]
        out = out.reshape(self.num_heads, s * h, s * w)
        return out[:, : self.map_size[0], : self.map_size[1]]

    def incoming(self, region: int) -> np.ndarray:
        """Return the regions that route to a region."""
        return np.flatnonzero((self.index == region).any(axis=1))


class BlockAttention(BlockRouting):
    """Attention of one block without regions: as one region that is routed to itself."""

    def _record(self, attn: nn.Module, x: Tensor) -> None:
        self.attention = kind_of(attn)
        self.topk = None
        self.num_regions, self.region_size = 1, self.map_size
        self.index = np.zeros((1, 1), np.int64)
        self._layer = deepcopy(attn).float().requires_grad_(False)
        for module in self._layer.modules():
            if isinstance(module, DepthwiseConv):  # adds neighbours that are not attended to
                module.weight.zero_()
        self._qkv = self._layer.qkv(x.float())

    @property
    def weights(self) -> np.ndarray:
        """Attention weights of all tokens, (1, m, T, T), fp32."""
        tokens = np.argwhere(np.ones(self.map_size))
        return self.attention_of(tokens).transpose(1, 0, 2)[None]

    @torch.enable_grad()
    def attention_of(self, tokens: np.ndarray) -> np.ndarray:
        """Return the attention of tokens, (n, 2), to all tokens, (n, m, T), fp32.

        A channel of a head's output is the sum of the values in that channel times the weights.
        So the weights are the gradient with respect to the values, and each channel of a head
        can give those of another token.
        """
        rows, cols = np.transpose(tokens)
        channels = self._qkv.shape[-1] // 3
        head_dim = channels // self.num_heads
        query_key, value = self._qkv.split([2 * channels, channels], dim=-1)
        value.requires_grad_()
        output = self._layer.attend(torch.cat([query_key, value], dim=-1))
        output = output[0].unflatten(-1, (self.num_heads, head_dim))  # (H, W, m, d)
        found = []
        for start in range(0, len(rows), head_dim):
            row, col = rows[start : start + head_dim], cols[start : start + head_dim]
            chosen = output[row, col, :, np.arange(len(row))].sum()
            (gradient,) = torch.autograd.grad(chosen, value, retain_graph=True)
            gradient = gradient[0].flatten(0, 1).unflatten(-1, (self.num_heads, head_dim))
            found.append(gradient[..., : len(row)].permute(2, 1, 0))  # (n, m, T)
        return torch.cat(found).cpu().numpy()


def kind_of(attn: BaseAttention) -> str:
    """Return the kind of an attention, such as 'shifted window'."""
    return next(name for name, kind in ATTENTIONS.items() if type(attn) is kind).replace('_', ' ')


@torch.no_grad()
def record_routing(
    backbone: BiFormer, images: Tensor, stage: Optional[int] = None, block: int = -1
) -> Iterator[BlockRouting]:
    """Run a backbone and yield the routing of its blocks, one at a time.

    Args:
        backbone: The network. It runs in evaluation mode; its mode is restored
            afterwards.
        images: One normalised image, (1, C, H, W).
        stage: Stage of the only block to yield; None for all blocks in order.
        block: Number of this block, see :func:`find_block`.

    Raises:
        UsageError: There is no such block, or it attends to something else than the tokens of
            its map.
        ValueError: There is not exactly one image, or the backbone refuses it.
    """
    if images.shape[0] != 1:
        raise ValueError(
            f'routing is recorded of one image, (1, C, H, W); got {tuple(images.shape)}'
        )
    blocks = {
        module.attn: (i + 1, j + 1, len(blocks))
        for i, blocks in enumerate(backbone.stages)
        for j, module in enumerate(blocks)
    }
    if stage is not None:
        number = find_block(backbone, stage, block)
        blocks = {a: place for a, place in blocks.items() if place[:2] == (stage, number)}
    for attn, place in blocks.items():
        _check_tokens_are_attended_to(attn, *place[:2])
    seen: Dict[nn.Module, Tensor] = {}
    hooks = [
        attn.register_forward_pre_hook(lambda module, args: seen.update({module: args[0]}))
        for attn in blocks
    ]
    try:
        with evaluating(backbone):
            backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    for attn, place in blocks.items():
        kind = BlockAttention if isinstance(attn, BaseAttention) else BlockRouting
        yield kind(attn, seen.pop(attn), *place, images.shape[2:])


def _check_tokens_are_attended_to(attn: nn.Module, stage: int, block: int) -> None:
    """Refuse attention to points between the tokens, and to a sub-sampled map.

    Raises:
        UsageError: It is such an attention.
    """
    if isinstance(attn, DeformableAttention) or getattr(attn, 'ratio', None) is not None:
        raise UsageError(
            'heat maps show attention to the tokens of the map; block '
            f'{block} of stage {stage} has {kind_of(attn)} attention to other points: choose '
            'a block of another kind'
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model uncompiled and in evaluation mode, and restore its mode."""
    # By module, as a part may have been frozen by hand.
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with eagerly():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def find_block(backbone: BiFormer, stage: int, block: int) -> int:
    """Return the number, from 1, of a block of a stage.

    Args:
        backbone: The network.
        stage: Number of the stage, from 1.
        block: From 1, or negative: -1 is the last block of the stage.

    Raises:
        UsageError: There is no such block, or it attends to something else than the tokens of
            its map.
    """
    depths = [len(blocks) for blocks in backbone.stages]
    if not 1 <= stage <= len(depths):
        raise UsageError(f'the stage must be between 1 and {len(depths)}; got {stage}')
    depth = depths[stage - 1]
    number = block + depth + 1 if block < 0 else block
    if not 1 <= number <= depth:
        raise UsageError(
            f'the block of stage {stage} must be between 1 and '
            f'{depth}, or -1 for the last; got {block}'
        )
    _check_tokens_are_attended_to(backbone.stages[stage - 1][number - 1].attn, stage, number)
    return number


def find_backbone(model: nn.Module) -> BiFormer:
    """Return the BiFormer in a model.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = [m for m in model.modules() if isinstance(m, BiFormer)]
    if len(found) != 1:
        raise UsageError(
            'the model must have one BiFormer; '
            f'{type(model).__name__} has {len(found)}: use a '
            'config whose model.backbone is one'
        )
    return found[0]
