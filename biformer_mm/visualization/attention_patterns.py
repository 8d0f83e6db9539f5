"""Show which tokens each attention lets a query see, as figure 1 of the paper.

Shapes: H x W tokens of a map, C channels.
"""

from typing import Dict, List, Optional, Tuple

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor, nn

from biformer_mm.models.backbones.arch import ARCHS
from biformer_mm.models.backbones.biformer import init_linear
from biformer_mm.models.layers import ATTENTIONS, ROUTING, build_attention
from biformer_mm.models.layers.attention import BiLevelRoutingAttention, FullAttention
from biformer_mm.models.layers.basic import DepthwiseConv

LAYOUT = ARCHS['stl']
NUM_REGIONS = 7
COLORS = ('#0072B2', '#E69F00')  # of even and odd blocks, Okabe and Ito's
FAINTEST = 0.35  # opacity of the tokens with the least weight


def attention_patterns(
    stage: int, query: Tuple[int, int], picture: Optional[np.ndarray] = None
) -> Dict[str, List[np.ndarray]]:
    """Compute what a query sees through each attention, with random weights.

    The layers are those of the Swin-T layout at 224 pixels, in stage 1 on 56 x 56 tokens.

    Args:
        stage: From 1 to 4.
        query: Row and column of the query's token.
        picture: RGB, (H', W', 3), uint8. Routed, deformed and top-k attention depend on the
            tokens; these are made from its colours, so that tokens of like colour attend to each
            other. None takes random tokens.

    Returns:
        By the attention's name, the result of :func:`token_weights` for the first block of the
        stage and, where blocks alternate, for the second.
    """
    side = map_side(stage)
    found = {}
    with torch.random.fork_rng(devices=[]):
        for name in (ROUTING, *ATTENTIONS):
            patterns = []
            for block in range(2):
                torch.manual_seed(0)  # so that only blocks that alternate differ
                layer = _build(name, stage - 1, block)
                features = _features(picture, side, layer.embed_dims // 2)
                patterns.append(token_weights(layer, features, query))
            alternate = not np.array_equal(*patterns)
            found[name] = patterns if alternate else patterns[:1]
    return found


def map_side(stage: int) -> int:
    """Return the tokens per side of a stage's map at 224 pixels."""
    return 224 // 2 ** (stage + 1)


def token_weights(layer: nn.Module, features: Tensor, query: Tuple[int, int]) -> np.ndarray:
    """Measure how much of each token's value reaches the layer's output for a query.

    A token counts as seen if the gradient of the query's output with respect to the token's value
    is not zero. The gradient is its attention weight times constants. Convolutions that add
    neighbours to the output (LCE, LePE) are switched off. Those that make keys and values (the
    sub-sampling of Twins) stay, because the query sees what they sum up.

    Queries, keys, offsets and routing must have no part in the gradient. So the layer's weights
    are changed: queries and keys are made from the even channels, values from the odd ones, and
    only the odd channels are differentiated.

    Args:
        layer: An attention with a linear layer ``qkv``; its weights are changed in place.
        features: What the even channels hold, (H, W, C/2).
        query: Row and column of the query's token.

    Returns:
        (H, W), from 0, not seen, to 1, the largest.
    """
    with torch.no_grad():
        to_query, to_key, to_value = layer.qkv.weight.chunk(3)
        to_query[:, 1::2] = 0
        to_key.copy_(to_query)  # so that a token attends to its like
        to_value[:, ::2] = 0
        for module in layer.modules():
            if isinstance(module, DepthwiseConv):
                module.weight.zero_()
    values = torch.randn(*features.shape[:2], layer.embed_dims // 2, requires_grad=True)
    x = features.new_zeros(1, *features.shape[:2], layer.embed_dims)
    x[0, ..., ::2] = features
    x[0, ..., 1::2] = values
    output = layer(x)[0, query[0], query[1]]
    (gradient,) = torch.autograd.grad(output @ torch.randn(len(output)), values)
    weights = gradient.norm(dim=-1).numpy()
    return weights / weights.max()


def _build(name: str, stage: int, block: int) -> nn.Module:
    """Build an attention as in the Swin-T layout, stage from 0."""
    channels, topk = LAYOUT['embed_dims'][stage], LAYOUT['topks'][stage]
    heads = channels // LAYOUT['head_dim']
    layer: nn.Module
    if name != ROUTING:
        layer = build_attention(name, channels, heads, stage, block, {})
    elif topk is None:
        layer = FullAttention(channels)
    else:
        layer = BiLevelRoutingAttention(channels, heads, NUM_REGIONS, topk)
    return layer.apply(init_linear)


def _features(picture: Optional[np.ndarray], side: int, channels: int) -> Tensor:
    """Make tokens whose dot products are large for like colours, (side, side, channels).

    These are random Fourier features (Rahimi and Recht, 2007) of a Gaussian kernel.
    """
    if picture is None:
        return torch.randn(side, side, channels)
    colors = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) / 255
    phases = torch.from_numpy(colors).float() @ (4 * torch.randn(3, channels))
    return torch.cos(phases + 2 * torch.pi * torch.rand(channels)) * 2**0.5


def draw_patterns(
    patterns: Dict[str, List[np.ndarray]],
    query: Tuple[int, int],
    picture: Optional[np.ndarray] = None,
) -> Figure:
    """Draw one panel per attention: the map, the query and the tokens that it sees.

    Where blocks alternate, the tokens that the second one sees are orange, not blue. The larger a
    token's weight, the stronger is its colour. Below the panel is the number of tokens.

    Args:
        patterns: Of :func:`attention_patterns`.
        query: Row and column of the query's token.
        picture: What the map shows, RGB, (H', W', 3), uint8; white if None.
    """
    columns = 4
    rows = -(-(len(patterns) + 1) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.75 * rows), layout='constrained')
    figure.get_layout_engine().set(hspace=0.05)
    *panels, legend = figure.subplots(rows, columns).flat
    for axis in panels[len(patterns) :]:
        axis.set_axis_off()
    for axis, (name, blocks) in zip(panels, patterns.items()):
        _draw_panel(axis, blocks, query, picture)
        axis.set_title(name, fontsize=11)
        seen = ', then '.join(str(np.count_nonzero(weights)) for weights in blocks)
        axis.set_xlabel(f'{seen} of {blocks[0].size} tokens', fontsize=9)
    _draw_legend(legend)
    return figure


def _draw_panel(
    axis: Axes, blocks: List[np.ndarray], query: Tuple[int, int], picture: Optional[np.ndarray]
) -> None:
    height, width = blocks[0].shape
    if picture is not None:
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        axis.imshow(gray, cmap='gray', vmin=-350, vmax=300, extent=(0, width, height, 0))
    for weights, color in reversed(list(zip(blocks, COLORS))):
        shown = np.zeros((height, width, 4))
        shown[..., :3] = to_rgb(color)
        shown[..., 3] = np.where(weights > 0, FAINTEST + (0.85 - FAINTEST) * weights, 0)
        axis.imshow(shown, extent=(0, width, height, 0), interpolation='nearest')
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect='equal')
    axis.set_xticks(range(width), minor=True)
    axis.set_yticks(range(height), minor=True)
    axis.grid(which='minor', color='white', linewidth=0.3)
    axis.tick_params(which='minor', length=0)
    axis.plot(
        query[1] + 0.5,
        query[0] + 0.5,
        marker='*',
        markersize=13,
        color='#D40000',
        markeredgecolor='white',
    )


def _draw_legend(axis: Axes) -> None:
    axis.set_axis_off()
    star = axis.plot([], [], '*', color='#D40000', markersize=13, label='query')
    patches = [
        Patch(color=color, alpha=0.85, label=label)
        for color, label in zip(COLORS, ('seen', 'in every other block'))
    ]
    legend = axis.legend(handles=[*star, *patches], loc='center left', frameon=False, fontsize=10)
    legend.set_in_layout(False)  # its width must not part the columns
