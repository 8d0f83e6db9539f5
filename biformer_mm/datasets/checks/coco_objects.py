"""Check the box and the mask of one COCO annotation."""

from typing import Any, Dict, Iterator, List, Optional, Tuple

# Pixels by which rounded annotations may be off.
_TOLERANCE = 1
# Pixels. pycocotools walks along every polygon, so that a coordinate that is
# not a number, or far off, takes all memory.
FARTHEST = 10**6
# mmdet drops the object, pycocotools does not.
LEFT_OUT = 'is left out of training and counts as missed in evaluation'


def check_object(
    annotation: Dict, width: int, height: int, with_masks: bool
) -> Iterator[Tuple[str, str]]:
    """Yield the problems of an object, as (kind, detail).

    Args:
        annotation: An entry of the file's annotations.
        width: Width of its image, in pixels.
        height: Height of its image, in pixels.
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
        yield 'box-empty', f'bbox {box} is below 1 pixel, {LEFT_OUT}'
    elif min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        yield ('box-outside', f'bbox {box} is outside the image of {width} x {height}, {LEFT_OUT}')
    elif min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE:
        yield 'box-over-edge', (f'bbox {box} goes over the edge of the image of {width} x {height}')


def are_near(values: List[Any]) -> bool:
    """Return whether all values are finite numbers within FARTHEST."""
    return all(isinstance(value, (int, float)) and abs(value) <= FARTHEST for value in values)


def _check_mask(mask: Any, width: int, height: int) -> Iterator[Tuple[str, str]]:
    if not mask:
        yield 'mask-missing', 'has no segmentation, and masks are trained on'
    elif isinstance(mask, list):
        for number, polygon in enumerate(mask):
            if not (isinstance(polygon, list) and are_near(polygon)):
                yield (
                    'mask-invalid',
                    (f'polygon {number} is not a list of numbers within {FARTHEST}'),
                )
            elif len(polygon) < 6 or len(polygon) % 2:
                yield (
                    'polygon',
                    (f'polygon {number} has {len(polygon)} coordinates, not three points or more'),
                )
    elif not isinstance(mask, dict):
        yield 'mask-invalid', f'segmentation is a {type(mask).__name__}'
    elif mask.get('size') != [height, width]:
        yield 'mask-invalid', f"mask's size is {mask.get('size')}, not [{height}, {width}]"
    else:
        wrong = _wrong_counts(mask.get('counts'), int(width * height))
        if wrong:
            yield 'mask-invalid', wrong


def _wrong_counts(counts: Any, pixels: int) -> Optional[str]:
    """Return what is wrong with a run-length code of an image, or None.

    pycocotools refuses a code that is too long. It reads a short one, and
    leaves the rest of the mask to chance.
    """
    if isinstance(counts, str):
        text = counts.encode(errors='replace').partition(b'\0')[0]
        # Bit 5 says that more follows: pycocotools would read behind the text.
        if text and text[-1] - 48 & 0x20:
            return "mask's counts end in the middle of a number"
    elif not isinstance(counts, list):
        return f"mask's counts are a {type(counts).__name__}, not a list or a text"
    if _fits(counts, pixels) and not _fits(counts, pixels - 1):
        return None
    return "mask's counts do not sum to its pixels"


def _fits(counts: Any, pixels: int) -> bool:
    """Return whether pycocotools can decode the counts into so many pixels."""
    from pycocotools import mask  # only mmdet requires it

    code = dict(size=[pixels, 1], counts=counts)
    try:
        mask.decode(code if isinstance(counts, str) else mask.frPyObjects(code, pixels, 1))
    except (ValueError, TypeError, OverflowError, MemoryError):
        return False
    return True
