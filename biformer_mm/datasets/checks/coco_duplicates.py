"""Find objects that a COCO annotation file lists more than once."""

from typing import Dict, Iterator, Sequence

import numpy as np

from .coco_conventions import as_array
from .coco_objects import FARTHEST
from .problems import Problem

_SAME = 0.5  # pixels
# Most boxes with the same left edge to compare a box with.
_NEIGHBOURS = 20
# Share of the objects from which on the evaluation is wrong, and the fewest that count.
_MANY, _FEWEST = 0.05, 5


def check_duplicates(path: str, annotations: Sequence[Dict]) -> Iterator[Problem]:
    """Yield that objects of one image and category have the same box, at most one problem.

    Args:
        path: The file.
        annotations: Its annotations.

    Yields:
        ``object-twice`` (warning), or ``many-objects-twice`` (error) for more than 5 % of them.
    """
    objects = [a for a in annotations if not a.get('iscrowd')]
    boxes = as_array([a.get('bbox') for a in objects])
    numbers: Dict = {}  # of each image and category
    pairs = [(a['image_id'], a.get('category_id')) for a in objects]
    keys = np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], int)
    known = (np.abs(boxes) <= FARTHEST).all(1).nonzero()[0]
    # By left edge, too, so that boxes that may be the same are close.
    order = known[np.lexsort([boxes[known, 0], keys[known]])]
    keys, boxes = keys[order], boxes[order]
    repeated: Dict[int, int] = {}
    for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
        apart = np.abs(boxes[step:] - boxes[:-step])
        maybe = (keys[step:] == keys[:-step]) & (apart[:, 0] <= _SAME)
        same = (maybe & (apart <= _SAME).all(1)).nonzero()[0]
        repeated.update(zip(order[same + step].tolist(), order[same].tolist()))
        if not maybe.any():
            break
    if not repeated:
        return
    twice = len(repeated)
    ids = ' and '.join(str(objects[i].get('id')) for i in next(iter(repeated.items())))
    detail = (
        f'an object must be listed once, and {twice} of {len(objects)} have the image, category '
        f'and box of another, such as annotations {ids}: one detection cannot match both, so the '
        'other counts as missed; remove them'
    )
    many = twice >= _FEWEST and twice > _MANY * len(objects)
    yield Problem('many-objects-twice' if many else 'object-twice', path, detail)
