"""Draw the paper's figure 4 for any image: query, routed regions, attention."""

from typing import Sequence, Tuple

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from .recording import BlockRouting

# Their lightness rises evenly, which also works in grey and for colour-blind
# readers.
RANK_COLORS = colormaps['cividis']
HEAT_COLORS = colormaps['inferno']
PANEL_INCHES = 5.0
SMALLEST_TEXT = 4  # points; smaller text is not legible and left out
OUTLINE = [withStroke(linewidth=3, foreground='black')]


def draw_routing(
    picture: np.ndarray, routing: BlockRouting, queries: Sequence[Tuple[int, int]]
) -> Figure:
    """Draw the three panels for each query.

    These are: the picture with the query and its region; the routed regions,
    numbered by rank; and the attention of the query's token on the routed
    tokens, averaged over the heads.

    Args:
        picture: RGB, (H, W, 3), uint8, at the top left of the network's input.
        routing: Routing of one block on that input.
        queries: Positions on the picture, (x, y) in pixels.

    Returns:
        A figure with one row per query.
    """
    height, width = picture.shape[:2]
    panel = _panel_height(height, width)
    figure = Figure(
        figsize=(3 * PANEL_INCHES, len(queries) * (panel + 0.35) + 0.5), layout='constrained'
    )
    figure.suptitle(describe(routing), fontsize=14)
    faint = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    faint = (faint * 0.3 + 30).astype(np.uint8)
    for axes, query in zip(figure.subplots(len(queries), 3, squeeze=False), queries):
        token = routing.token_at(*query)
        region = routing.region_of(*token)
        _draw_query(axes[0], picture, routing, query, region)
        _draw_regions(axes[1], picture, faint, routing, query, region)
        _draw_heat(axes[2], faint, routing, query, token)
        for axis in axes:
            for image in axis.images:
                # From edge to edge, as the boxes, not from centre to centre.
                image.set_extent((0, width, height, 0))
            axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    return figure


def to_array(figure: Figure, dpi: int = 100) -> np.ndarray:
    """Render a figure as an RGB picture, (H, W, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def describe(routing: BlockRouting) -> str:
    """Return stage, block, S and k as a line of text."""
    h, w = routing.region_size
    place = f'stage {routing.stage}, block {routing.block} of {routing.num_blocks}'
    if routing.topk is None:
        return f'{place}: {routing.attention} attention, {h} x {w} tokens'
    return f'{place}: S = {routing.num_regions}, k = {routing.topk}, regions of {h} x {w} tokens'


def _draw_query(
    axis: Axes, picture: np.ndarray, routing: BlockRouting, query: Tuple[int, int], region: int
) -> None:
    axis.imshow(picture)
    _outline(axis, routing, region, 'white', 2, linestyle='--')
    _mark(axis, query)
    axis.set_title('query and, dashed, its region')


def _draw_regions(
    axis: Axes,
    picture: np.ndarray,
    faint: np.ndarray,
    routing: BlockRouting,
    query: Tuple[int, int],
    region: int,
) -> None:
    shown = faint.copy()
    # A region that the index lists twice keeps its first rank.
    routed = list(dict.fromkeys(routing.index[region].tolist()))
    for i in routed:
        left, top, right, bottom = routing.region_box(i)
        shown[top:bottom, left:right] = picture[top:bottom, left:right]
    axis.imshow(shown)
    size = _text_size(routing, *picture.shape[:2])
    outside = 0
    for rank, i in reversed(list(enumerate(routed))):
        left, top, right, bottom = routing.region_box(i)
        if left >= min(right, shown.shape[1]) or (top >= min(bottom, shown.shape[0])):
            outside += 1  # in the padding
            continue
        color = RANK_COLORS(1 - 0.8 * rank / max(len(routed) - 1, 1))
        _outline(axis, routing, i, color, 2.5 if rank == 0 else 1.5)
        if routing.topk is not None and size >= SMALLEST_TEXT:
            axis.text(
                (left + min(right, shown.shape[1])) / 2,
                (top + min(bottom, shown.shape[0])) / 2,
                str(rank + 1),
                color='white',
                fontsize=size,
                ha='center',
                va='center',
                path_effects=OUTLINE,
            )
    _outline(axis, routing, region, 'white', 2, linestyle='--')
    _mark(axis, query)
    if routing.topk is None:
        axis.set_title(f'{routing.attention} attention: no regions')
        return
    share = routing.strength[region, 0]
    if outside:
        axis.set_title(f'regions by rank; first gets {share:.0%}; {outside} off the picture')
    else:
        axis.set_title(f'routed regions by rank; the first gets {share:.0%} of the attention')


def _draw_heat(
    axis: Axes,
    faint: np.ndarray,
    routing: BlockRouting,
    query: Tuple[int, int],
    token: Tuple[int, int],
) -> None:
    heat = routing.heat_map(*token).mean(axis=0)
    height, width = faint.shape[:2]
    outside = 1 - heat[: -(-height // routing.stride), : -(-width // routing.stride)].sum()
    spread = np.kron(heat, np.ones((routing.stride, routing.stride)))
    spread = np.pad(
        spread,
        ((0, max(height - spread.shape[0], 0)), (0, max(width - spread.shape[1], 0))),
        'edge',
    )
    spread = spread[:height, :width]
    axis.imshow(faint)
    image = axis.imshow(
        np.ma.masked_equal(spread, 0),
        cmap=HEAT_COLORS,
        vmin=0,
        vmax=spread.max() or 1,  # 1 if all attention is off the picture
        alpha=0.85,
        interpolation='nearest',
    )
    _mark(axis, query)
    heads = f'mean of {routing.num_heads} heads'
    if outside > 0.005:
        axis.set_title(f'attention, {heads}; {outside:.0%} off the picture')
    else:
        axis.set_title(f'attention per token, {heads}')
    bar = axis.figure.colorbar(
        image, ax=axis, fraction=0.04, pad=0.01, panchor=False
    )  # panchor: otherwise the title of a narrow panel is cut off
    bar.ax.set_facecolor(tuple(faint.mean(axis=(0, 1)) / 255))
    bar.formatter.set_powerlimits((-2, 3))


def _outline(axis: Axes, routing: BlockRouting, region: int, color, width: float, **style) -> None:
    left, top, right, bottom = routing.region_box(region)
    axis.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=color,
            linewidth=width,
            path_effects=[withStroke(linewidth=width + 1.5, foreground='black')],
            **style,
        )
    )


def _mark(axis: Axes, query: Tuple[int, int]) -> None:
    axis.plot(
        *query,
        marker='*',
        markersize=16,
        color='white',
        markeredgecolor='black',
        markeredgewidth=1.2,
    )


def _panel_height(height: int, width: int) -> float:
    """Return the height in inches of a panel for a picture of this size."""
    return 0.93 * PANEL_INCHES * min(height / width, 1.5)


def _text_size(routing: BlockRouting, height: int, width: int) -> float:
    """Return the size in points at which two digits fit into a region."""
    inches_per_pixel = _panel_height(height, width) / height
    side = min(routing.region_size) * routing.stride * inches_per_pixel
    return min(72 * side * 0.55, 16)
