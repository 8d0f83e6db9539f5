"""What is wrong with the box and the mask of one annotation of COCO's."""

from typing import Any, Dict, Iterator, List, Tuple

# Pixels by which annotations are off, rounded, without being wrong.
_TOLERANCE = 1
# Pixels: pycocotools walks along every polygon, and a coordinate that is not a
# number or far off takes all memory.
FARTHEST = 10**6


def check_object(
    annotation: Dict, width: int, height: int, with_masks: bool
) -> Iterator[Tuple[str, str]]:
    """Problems of an object, as (kind, detail).

    Args:
        annotation: An entry of the file's annotations.
        width: Its image's, in pixels.
        height: Likewise.
        with_masks: Whether masks are trained on.
    """
    yield from _check_box(annotation.get('bbox'), width, height)
    if with_masks:
        yield from _check_mask(annotation.get('segmentation'), width, height)


def _check_box(box: Any, width: int, height: int) -> Iterator[Tuple[str, str]]:
    if box is None:
        yield 'box-missing', 'has no bbox'
        return
    if not (isinstance(box, list) and len(box) == 4 and are_near(box)):
        yield 'box-invalid', (f'bbox {box!r} is not four numbers within {FARTHEST}')
        return
    x, y, w, h = box
    if w < 1 or h < 1:  # mmdet's limit
        yield 'box-empty', f'bbox {box} is below 1 pixel, is left out'
    elif min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        yield 'box-outside', (f'bbox {box} is outside the image of {width} x {height}, is left out')
    elif min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE:
        yield 'box-over-edge', (f'bbox {box} goes over the edge of the image of {width} x {height}')


def are_near(values: List[Any]) -> bool:
    """Whether all are numbers, finite, and of a possible place in an image."""
    return all(isinstance(value, (int, float)) and abs(value) <= FARTHEST for value in values)


def _check_mask(mask: Any, width: int, height: int) -> Iterator[Tuple[str, str]]:
    if not mask:
        yield 'mask-missing', 'has no segmentation, and masks are trained on'
    elif isinstance(mask, list):
        for number, polygon in enumerate(mask):
            if not (isinstance(polygon, list) and are_near(polygon)):
                yield 'mask-invalid', (f'polygon {number} is no list of numbers within {FARTHEST}')
            elif len(polygon) < 6 or len(polygon) % 2:
                yield (
                    'polygon',
                    (f'polygon {number} has {len(polygon)} coordinates, not three points or more'),
                )
    elif not isinstance(mask, dict):
        yield 'mask-invalid', f'segmentation is a {type(mask).__name__}'
    else:
        counts = mask.get('counts')
        if mask.get('size') != [height, width]:
            yield 'mask-invalid', (f"mask's size is {mask.get('size')}, not [{height}, {width}]")
        elif not _is_whole(counts, width * height):
            yield 'mask-invalid', "mask's counts do not sum to its pixels"


def _is_whole(counts: Any, pixels: int) -> bool:
    """Whether a run-length code, of either kind, covers an image."""
    if isinstance(counts, str):
        counts = _decompress(counts)
    return (
        isinstance(counts, list)
        and all(isinstance(x, int) and x >= 0 for x in counts)
        and sum(counts) == pixels
    )


def _decompress(text: str) -> List[int]:
    """The runs of pycocotools' compressed code.

    A character, less 48, holds 5 bits of a number, low ones first, and a
    sixth that says whether more follow; the highest bit is the sign. From the
    fourth on, numbers are differences to the last but one.
    """
    runs, number, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return runs
