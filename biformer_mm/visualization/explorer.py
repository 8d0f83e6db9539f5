"""Write the routing explorer: one HTML file to explore a network's routing.

The template in the folder explorer-page is filled with the picture, the
routing of every block, and heat maps of as many tokens as fit. Heat maps are
recorded in rounds, each of which doubles their density on the map. Each round
is compressed separately, so its size is known without recording again.

Shapes: as in recording.py; n recorded tokens.
"""

import base64
import hashlib
import html
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Tuple, Union

import cv2
import numpy as np

from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.errors import UsageError

from .recording import BlockRouting

PAGE = Path(__file__).with_name('explorer-page')
SCRIPTS = ('data.js', 'drawing.js', 'rendering.js', 'page.js')
LEVELS = 15  # a heat map's maximum before rounding
LONG_SIDE = 1333  # of the picture, in pixels
MAX_HEAT_BYTES = 8_000_000  # of one block, unpacked, so that phones can hold it


def write_explorer(
    path: Union[str, Path],
    picture: np.ndarray,
    routings: Iterable[BlockRouting],
    title: str = 'Routing explorer',
    max_megabytes: float = 6,
) -> None:
    """Write the page, which needs no other file, server or network.

    Args:
        path: The HTML file.
        picture: RGB, (H, W, 3), uint8, at the top left of the network's input.
        routings: Routings of the backbone's blocks on that input, in order. Each
            is released before the next is requested.
        title: Title of the page.
        max_megabytes: Largest size of the file, in 10**6 bytes. A smaller limit
            leaves fewer tokens with heat maps; everything else is always there.

    Raises:
        UsageError: The limit is too low even without heat maps.
    """
    limit = int(max_megabytes * 1e6)
    stages: List[_StageRecord] = []
    image_size = picture.shape[:2]
    for routing in routings:
        if not stages or stages[-1].facts['number'] != routing.stage:
            stages.append(_StageRecord(routing))
        stages[-1].add(routing, limit)
        image_size = routing.image_size

    content = dict(
        title=title,
        levels=LEVELS,
        image=_pack_picture(picture, image_size),
        stages=[stage.facts for stage in stages],
    )
    size = len(_fill_page(content))
    if size > limit:
        raise UsageError(
            'the explorer must hold the picture and every routing; got a '
            f'limit of {max_megabytes:g} MB for {size / 1e6:.2f} MB of these: '
            'raise the limit'
        )
    for stage, count in zip(stages, _choose_rounds(stages, limit - size)):
        stage.facts['rounds'] = stage.rounds[:count]
    _write(Path(path), _fill_page(content))


class _StageRecord:
    """The data of one stage for the page.

    Args:
        routing: Routing of the stage's first block.

    Attributes:
        facts: The data without heat maps.
        tokens: For each round, the tokens that it adds, (n, 2).
        rounds: For each round, a dict of these ``tokens`` and of ``heat``, their
            heat maps, one entry per block. All are packed.
    """

    def __init__(self, routing: BlockRouting) -> None:
        self.facts: Dict[str, Any] = dict(
            number=routing.stage,
            stride=routing.stride,
            map=routing.map_size,
            region=routing.region_size,
            side=routing.num_regions,
            topk=routing.topk,
            attention=routing.attention,
            heads=routing.num_heads,
            routings=[],
            rounds=[],
        )
        self.tokens: List[np.ndarray] = []
        self.rounds: List[Dict[str, Any]] = []

    def add(self, routing: BlockRouting, limit: int) -> None:
        """Record a block. The first one fixes the number of rounds.

        Args:
            routing: Routing of the stage's next block.
            limit: Largest size of a stage, in bytes.
        """
        if not self.facts['routings']:
            self._start(routing, limit // routing.num_blocks)
        else:
            for tokens, packed in zip(self.tokens, self.rounds):
                packed['heat'].append(_pack_heat(routing, tokens))
        self.facts['routings'].append(None if routing.topk is None else _pack_routing(routing))

    def _start(self, routing: BlockRouting, limit: int) -> None:
        """Record rounds until a block's heat maps are too large."""
        values_per_token = (
            routing.num_heads * routing.index.shape[1] * math.prod(routing.region_size)
        )
        for tokens in token_rounds(routing.map_size, routing.region_size):
            known = sum(map(len, self.tokens)) + len(tokens)
            if known * values_per_token > MAX_HEAT_BYTES:
                break
            heat = _pack_heat(routing, tokens)
            limit -= len(heat)
            if limit < 0:
                break
            self.tokens.append(tokens)
            self.rounds.append(dict(tokens=_pack(tokens.astype('<u2')), heat=[heat]))


def token_rounds(map_size: Tuple[int, int], region_size: Tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the tokens of a map in the order of recording.

    After each round, the tokens so far are the crossings of some rows and
    columns, about evenly spaced. When there are as many tokens as regions, each
    region has one in its middle. The last round completes the map.

    Yields:
        Row and column of each token that the round adds, (n, 2).
    """
    levels = [_axis_levels(*sizes) for sizes in zip(map_size, region_size)]
    depth = [0, 0]
    seen = np.zeros(map_size, dtype=bool)
    while True:
        rows, cols = (axis[i] for axis, i in zip(levels, depth))
        new = np.zeros_like(seen)
        new[np.ix_(rows, cols)] = True
        yield np.argwhere(new & ~seen)
        seen |= new
        spacing = [
            size / len(axis[i]) if i + 1 < len(axis) else 0
            for size, axis, i in zip(map_size, levels, depth)
        ]
        if max(spacing) == 0:
            return
        depth[int(np.argmax(spacing))] += 1


def _axis_levels(size: int, region: int) -> List[List[int]]:
    """Return growing choices among ``size`` rows, from one row to all.

    Each choice contains the one before. The first ones are middles of regions,
    the later ones have more and more rows of each region.
    """
    cells = [list(range(start, min(start + region, size))) for start in range(0, size, region)]
    levels = [sum(cells, [])]
    while max(map(len, cells)) > 1:
        cells = [_halve(cell) for cell in cells]
        levels.append(sum(cells, []))
    while len(levels[-1]) > 1:
        levels.append(_halve(levels[-1]))
    return levels[::-1]


def _halve(rows: List[int]) -> List[int]:
    """Return every second row, including the middle one."""
    return rows[len(rows) // 2 % 2 :: 2]


def _choose_rounds(stages: List[_StageRecord], budget: int) -> List[int]:
    """Choose how many rounds of each stage to keep, within a budget of bytes.

    The stage with the fewest tokens gets the next round, so that all stages
    have about the same density.
    """
    counts, tokens = [0] * len(stages), [0] * len(stages)
    growing = {i for i, stage in enumerate(stages) if stage.rounds}
    while growing:
        i = min(growing, key=lambda i: (tokens[i], i))
        rounds = stages[i].rounds
        cost = len(json.dumps(rounds[counts[i]]))
        if cost <= budget:
            budget -= cost
            tokens[i] += len(stages[i].tokens[counts[i]])
            counts[i] += 1
        if cost > budget or counts[i] == len(rounds):
            growing.remove(i)
    return counts


def _pack_routing(routing: BlockRouting) -> str:
    """Pack the index and its strengths, (R, k), and the share of padding, (R,).

    The last is the share of each region's attention that padding gets. Strengths
    and shares are in thousandths.
    """
    off_map = ~_on_map(routing)[routing.index].reshape(len(routing.index), -1)
    padding = np.zeros(len(routing.index))
    if off_map.any():
        queries = np.maximum(routing.occupied_tokens(), 1)
        padding = np.einsum('rmtj,rj->r', routing.weights, off_map.astype(np.float32)) / (
            queries * routing.num_heads
        )
    return _pack(
        routing.index.astype('<u4'),
        np.rint(routing.strength * 1000).astype('<u2'),
        np.rint(padding * 1000).astype('<u2'),
    )


def _pack_heat(routing: BlockRouting, tokens: np.ndarray) -> str:
    """Pack the heat maps of tokens (n, 2).

    For each token and head: the largest attention to a token of the map and the
    sum of the attention to padding, (n, m), fp32; and the attention to the
    routed tokens, (n, m, k*T), uint8, scaled so that the largest is LEVELS;
    zero for padding.
    """
    rows, cols = tokens.T
    h, w = routing.region_size
    regions = rows // h * routing.num_regions + cols // w
    given = routing.attention_of(tokens)
    on_map = _on_map(routing)[routing.index[regions]]
    on_map = on_map.reshape(len(tokens), 1, -1)
    padding = np.where(on_map, 0, given).sum(axis=-1)
    given = np.where(on_map, given, 0)
    most = given.max(axis=-1)
    scale = LEVELS / np.maximum(most, 1e-30)
    return _pack(
        most.astype('<f4'),
        padding.astype('<f4'),
        np.rint(given * scale[..., None]).astype(np.uint8),
    )


def _on_map(routing: BlockRouting) -> np.ndarray:
    """Return a mask of the tokens of each region that lie on the map, (R, T)."""
    s = routing.num_regions
    rows, cols = (
        np.arange(s * length) < size for size, length in zip(routing.map_size, routing.region_size)
    )
    cut = np.outer(rows, cols).reshape(s, routing.region_size[0], s, -1)
    return cut.transpose(0, 2, 1, 3).reshape(s * s, -1)


def _pack_picture(picture: np.ndarray, image_size: Tuple[int, int]) -> Dict[str, Any]:
    height, width = picture.shape[:2]
    scale = min(LONG_SIDE / max(height, width), 1)
    shown = cv2.resize(
        picture,
        (max(round(width * scale), 1), max(round(height * scale), 1)),
        interpolation=cv2.INTER_AREA,
    )
    jpeg = cv2.imencode('.jpg', shown[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return dict(
        height=image_size[0],
        width=image_size[1],
        pictureHeight=height,
        pictureWidth=width,
        source='data:image/jpeg;base64,' + _base64(jpeg.tobytes()),
    )


def _pack(*arrays: np.ndarray) -> str:
    """Concatenate and compress arrays, and return them as text."""
    return _base64(zlib.compress(b''.join(array.tobytes() for array in arrays)))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode('ascii')


def _fill_page(content: Dict[str, Any]) -> bytes:
    """Fill the template.

    The security policy of the page has the hashes of script and style, so that
    it runs no other script and loads nothing.
    """
    style = (PAGE / 'page.css').read_text(encoding='utf-8')
    script = '\n'.join((PAGE / name).read_text(encoding='utf-8') for name in SCRIPTS)
    data = json.dumps(content, separators=(',', ':')).replace('<', '\\u003c')
    parts = dict(
        title=html.escape(content['title']),
        style=style,
        style_hash=_base64(hashlib.sha256(style.encode()).digest()),
        script=script,
        script_hash=_base64(hashlib.sha256(script.encode()).digest()),
        data=data,
    )
    page = (PAGE / 'page.html').read_text(encoding='utf-8')
    return re.sub(r'\{\{(\w+)\}\}', lambda found: parts[found.group(1)], page).encode()


def _write(path: Path, content: bytes) -> None:
    """Write the page completely or not at all: a partial page would open and fail."""
    with whole_file(path) as unfinished:
        Path(unfinished).write_bytes(content)
