"""Check one image and its segmentation map."""

from typing import FrozenSet, List, NamedTuple, Optional, Tuple

import numpy as np

from .pictures import Loading, Picture, describe, read_picture
from .problems import Problem


class Item(NamedTuple):
    """One image of a data set.

    Attributes:
        image: Its path.
        size: Width and height in pixels according to the annotations.
        seg_map: Path of its segmentation map.
        label_map: Path of its label map for token labelling.
    """

    image: str
    size: Optional[Tuple[int, int]] = None
    seg_map: Optional[str] = None
    label_map: Optional[str] = None


class Rules(NamedTuple):
    """How a data set's pipeline reads files.

    Attributes:
        image: How it decodes images.
        seg_map: How it decodes segmentation maps.
        labels: The values that a segmentation map may hold.
        unlabelled: Those of them that belong to no class.
    """

    image: Loading
    seg_map: Optional[Loading] = None
    labels: FrozenSet[int] = frozenset()
    unlabelled: FrozenSet[int] = frozenset()


def check_item(rules: Rules, item: Item) -> List[Problem]:
    """Return all problems of an item."""
    picture = read_picture(item.image, rules.image)
    problems = list(picture.problems)
    size = None
    if picture.pixels is not None:
        problems += describe(item.image, picture)
        size = picture.size
        if item.size is not None and item.size != size:
            problems.append(Problem('size', item.image, _size_differs(item.size, picture)))
    if item.seg_map is not None:
        problems += _check_map(item.seg_map, size, rules)
    return problems


def _size_differs(said: Tuple[int, int], picture: Picture) -> str:
    detail = (
        f'{picture.size[0]} x {picture.size[1]} pixels, {said[0]} x {said[1]} by its annotations'
    )
    if said == picture.size[::-1]:
        detail += ': loading turns the image, the annotations do not'
    return detail


def _check_map(path: str, size: Optional[Tuple[int, int]], rules: Rules) -> List[Problem]:
    """Return the problems of the segmentation map of an image of ``size``."""
    seg_map = read_picture(path, rules.seg_map, missing='map-missing')
    problems = list(seg_map.problems)
    if seg_map.pixels is None:
        return problems
    if size is not None and seg_map.size != size:
        problems.append(
            Problem(
                'map-size',
                path,
                f'{seg_map.size[0]} x {seg_map.size[1]} pixels, its image {size[0]} x {size[1]}',
            )
        )
    pixels = seg_map.pixels.squeeze()
    if pixels.ndim != 2:
        problems.append(
            Problem('map-channels', path, f'{pixels.shape[-1]} channels, not one of labels')
        )
        return problems
    values, counts = _count(pixels)
    wrong = [(value, count) for value, count in zip(values, counts) if value not in rules.labels]
    if wrong:
        shown = ', '.join(f'{value} ({count})' for value, count in wrong[:5])
        more = f' and {len(wrong) - 5} others' if len(wrong) > 5 else ''
        problems.append(Problem('map-label', path, f'labels (pixels) of no class: {shown}{more}'))
    if rules.unlabelled.issuperset(values):
        problems.append(Problem('map-unlabelled', path, 'no pixel has a class'))
    return problems


def _count(pixels: np.ndarray) -> Tuple[List[int], List[int]]:
    """Return the values of a map and how often each occurs."""
    if pixels.dtype in (np.uint8, np.uint16):  # without sorting: much faster
        counts = np.bincount(pixels.ravel())
        values = counts.nonzero()[0]
        return values.tolist(), counts[values].tolist()
    values, counts = np.unique(pixels, return_counts=True)
    return values.tolist(), counts.tolist()
