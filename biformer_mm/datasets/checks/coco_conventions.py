"""Recognise boxes that a whole annotation file writes in another convention.

COCO's boxes are [x, y, width, height] in pixels. A file with other boxes loads
without an error, and its objects are learnt in the wrong place or dropped.
"""

from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from .coco_objects import FARTHEST, are_near
from .problems import Problem

# Fewer boxes say too little; of fewer than _MANY, all must agree.
_FEWEST, _MANY = 5, 20
# Share of the boxes that must leave their images before the file is doubted.
_DOUBTED = 0.1
# Objects and images that are needed to compare extents, and the largest extent.
_EXTENT_OBJECTS, _EXTENT_IMAGES, _LARGEST_EXTENT = 50, 20, 0.75


def check_boxes(path: str, annotations: Sequence[Dict], images: Dict) -> Iterator[Problem]:
    """Yield what is wrong with the boxes of a file as a whole, at most one problem.

    Args:
        path: The file.
        annotations: Its annotations, each of an image in ``images``.
        images: Entries of the file's images, by id.
    """
    raw = [annotation.get('bbox') for annotation in annotations]
    sizes = [(image.get('width'), image.get('height')) for image in images.values()]
    rows = {key: row for row, key in enumerate(images)}
    rows = np.array([rows[annotation['image_id']] for annotation in annotations], int)
    try:
        table = np.array(sizes, float).reshape(-1, 2)[rows]  # None becomes NaN
    except (TypeError, ValueError, OverflowError):  # no numbers; loading stops
        return
    boxes = as_array(raw)
    known = (np.abs(boxes) <= FARTHEST).all(1) & (table > 0).all(1) & (table <= FARTHEST).all(1)
    numbers = known.nonzero()[0]
    boxes, table = boxes[known], table[known]
    if len(boxes) < _FEWEST:
        return
    width, height = table.T
    over = _leaves(boxes, width, height)
    guess = _guess(boxes, width, height, over)
    doubted = over.sum() >= max(_DOUBTED * len(boxes), _FEWEST)
    if guess:
        convention, cure, fit = guess
        odd = numbers[(over if over.any() else fit).argmax()]
        size = 'x'.join(f'{side:g}' for side in sizes[rows[odd]])
        yield Problem(
            'convention',
            path,
            f'boxes must be [x, y, width, height] in pixels, and {_wrong(over)}{fit.sum()} of '
            f'{len(boxes)} fit as {convention}, such as {raw[odd]} in an image of {size}; {cure}',
        )
    elif doubted:
        yield Problem(
            'boxes-over-edge',
            path,
            f'boxes must lie in their image, and {over.sum()} of {len(boxes)} do not; check that '
            'they are in pixels of the images as they are now',
        )
    elif len(boxes) >= _EXTENT_OBJECTS:
        x, y, w, h = boxes.T
        across, down = ((x + w) / width).max(), ((y + h) / height).max()
        # Boxes drawn on smaller copies end at the same share of both sides.
        alike = abs(across - down) < 0.02 * max(across, down) < 0.02 * _LARGEST_EXTENT
        if alike and len(np.unique(rows)) >= _EXTENT_IMAGES:
            yield Problem(
                'resized-boxes',
                path,
                f'boxes must be in pixels of the images as they are now, and none of {len(boxes)} '
                f'goes beyond {across:.0%} of the width and {down:.0%} of the height; if they were '
                f'drawn on smaller copies, multiply them by {1 / max(across, down):.2g}',
            )


def as_array(boxes: List) -> np.ndarray:
    """Return boxes as rows of four numbers; of NaN where a box is none."""
    try:
        table = np.array(boxes, float)
    except (TypeError, ValueError, OverflowError):  # some are none
        table = np.empty(0)
    if table.shape != (len(boxes), 4):
        nothing = [np.nan] * 4
        table = np.array(
            [
                box if isinstance(box, list) and len(box) == 4 and are_near(box) else nothing
                for box in boxes
            ],
            float,
        ).reshape(-1, 4)
    return table


def _wrong(over: np.ndarray) -> str:
    return f'{over.sum()} leave their image so; ' if over.any() else ''


def _leaves(boxes: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Return which boxes [x, y, width, height] leave their image by more than a pixel."""
    x, y, w, h = boxes.T
    return (x < -1) | (y < -1) | (x + w > width + 1) | (y + h > height + 1)


def _guess(
    boxes: np.ndarray, width: np.ndarray, height: np.ndarray, over: np.ndarray
) -> Optional[Tuple[str, str, np.ndarray]]:
    """Return the convention of the boxes, a cure and the boxes that fit; None if it is COCO's."""
    a, b, c, d = boxes.T
    all_of_few = len(boxes) < _MANY
    fit = (boxes >= -0.01).all(1) & (boxes <= 1.01).all(1) & (c > 0) & (d > 0)
    fit &= np.maximum(width, height) > 16
    if fit.mean() >= (1 if all_of_few else 0.9):
        return 'shares of width and height', 'multiply them by the width and height', fit
    enough = max(_DOUBTED * len(boxes), _FEWEST)
    # Boxes that annotators drew over the edge leave it by less than a tenth.
    far = (a + c > 1.1 * width + 1) | (b + d > 1.1 * height + 1)
    fit = (a >= -1) & (b >= -1) & (c > a) & (d > b) & (c <= width + 1) & (d <= height + 1)
    if far.sum() >= enough and fit.mean() >= (1 if all_of_few else 0.95):
        return '[x1, y1, x2, y2]', 'subtract x1 from x2 and y1 from y2', fit
    fits = {
        ('[centre x, centre y, width, height]', 'subtract half of the width and height'): ~_leaves(
            np.stack([a - c / 2, b - d / 2, c, d], 1), width, height
        ),
        ('[y, x, height, width]', 'exchange x and y, and width and height'): ~_leaves(
            np.stack([b, a, d, c], 1), width, height
        )
        & (np.mean(width != height) > 0.5),
    }
    for (convention, cure), fit in fits.items():
        if over.sum() >= enough and fit.mean() >= (1 if all_of_few else 0.99):
            return convention, cure, fit
    return None
