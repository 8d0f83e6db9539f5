"""Check one image and its segmentation map."""

from hashlib import blake2b
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Tuple

import numpy as np

from .pictures import Loading, Picture, describe, read_picture
from .problems import Problem

_JPEG = b'\xff\xd8\xff'


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
        channels: How many channels an image may have; empty if any.
    """

    image: Loading
    seg_map: Optional[Loading] = None
    labels: FrozenSet[int] = frozenset()
    unlabelled: FrozenSet[int] = frozenset()
    channels: FrozenSet[int] = frozenset()


class Read(NamedTuple):
    """What was found in the files of an item.

    Attributes:
        problems: All of them.
        values: The number of pixels of each value of its segmentation map.
        digest: Of the bytes of the image; none if it could not be read.
    """

    problems: List[Problem]
    values: Dict[int, int]
    digest: bytes


def check_item(rules: Rules, item: Item) -> List[Problem]:
    """Return all problems of an item."""
    return read_item(rules, item).problems


def read_item(rules: Rules, item: Item) -> Read:
    """Read and check the files of an item."""
    picture = read_picture(item.image, rules.image)
    problems = list(picture.problems)
    size = None
    if picture.pixels is not None:
        annotated = item.size is not None or item.seg_map is not None
        problems += describe(item.image, picture, rules.image, rules.channels, annotated)
        size = picture.size
        if item.size is not None and item.size != size:
            problems.append(Problem('size', item.image, _size_differs(item.size, picture)))
    values: Dict[int, int] = {}
    if item.seg_map is not None:
        wrong, values = _check_map(item.seg_map, size, rules)
        problems += wrong
    digest = blake2b(picture.data, digest_size=16).digest() if picture.data else b''
    return Read(problems, values, digest)


def _size_differs(said: Tuple[int, int], picture: Picture) -> str:
    detail = (
        f'{picture.size[0]} x {picture.size[1]} pixels, {said[0]} x {said[1]} by its annotations'
    )
    if said == picture.size[::-1]:
        detail += ': width and height are exchanged'
    return detail


def _check_map(
    path: str, size: Optional[Tuple[int, int]], rules: Rules
) -> Tuple[List[Problem], Dict[int, int]]:
    """Return the problems of the map of an image of ``size``, and the pixels of each value."""
    seg_map = read_picture(path, rules.seg_map, missing='map-missing')
    problems = list(seg_map.problems)
    if seg_map.pixels is None:
        return problems, {}
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
        return problems, {}
    if seg_map.data.startswith(_JPEG):  # whose values say nothing more
        return [*problems, lossy(path)], {}
    values = count_values(pixels)
    wrong = [value for value in values if value not in rules.labels]
    if wrong:
        shown = ', '.join(f'{value} ({values[value]})' for value in wrong[:5])
        more = f' and {len(wrong) - 5} others' if len(wrong) > 5 else ''
        problems.append(Problem('map-label', path, f'labels (pixels) of no class: {shown}{more}'))
    if rules.unlabelled.issuperset(values):
        problems.append(Problem('map-unlabelled', path, 'no pixel has a class'))
    return problems, values


def is_jpeg(path: str) -> bool:
    """Return whether a file can be read and holds a JPEG, whatever its name says."""
    try:
        with open(path, 'rb') as file:
            return file.read(len(_JPEG)) == _JPEG
    except OSError:
        return False


def lossy(path: str) -> Problem:
    """Return the problem of a segmentation map that is a JPEG."""
    return Problem(
        'map-lossy',
        path,
        'maps must be saved without loss, this one is a JPEG, which changes labels; '
        'save the maps anew from their source, as PNG',
    )


def count_values(pixels: np.ndarray) -> Dict[int, int]:
    """Return how many pixels of a map have each value."""
    if pixels.dtype in (np.uint8, np.uint16):  # without sorting: much faster
        counts = np.bincount(pixels.ravel())
        values = counts.nonzero()[0]
        return dict(zip(values.tolist(), counts[values].tolist()))
    values, counts = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))
