"""Compare the masks of a COCO annotation file with its boxes.

Training loads both and checks neither, so that a mask elsewhere than its box is
learnt as it is.
"""

import random
from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Tuple

from biformer_mm.utils.config_types import bare_type_name

from .coco_objects import are_near, check_object
from .problems import Problem

Box = Tuple[float, float, float, float]  # x, y, width, height in pixels

# Enough to know what share of a file is wrong, and quick.
_SAMPLE = 2000
# Share of the objects from which on the whole file is wrong, and the fewest that count.
_WHOLE_FILE, _FEWEST = 0.3, 5
# Smaller objects are off by much after rounding.
_SMALLEST = 4  # pixels
_LEAST_OVERLAP = 0.5
# Share of the contradicting objects that another way of reading must explain.
_EXPLAINED = 0.9


def loads_masks(pipeline: Any) -> bool:
    """Return whether a step of a pipeline loads masks."""
    return any(
        bare_type_name(step) == 'LoadAnnotations' and step.get('with_mask')
        for step in pipeline or ()
    )


def contradicts(annotation: Dict, width: int, height: int, problems: Collection) -> Optional[bool]:
    """Return whether the mask of an object is elsewhere than its box.

    Args:
        annotation: An entry of the file's annotations.
        width: Width of its image, in pixels.
        height: Height of its image, in pixels.
        problems: What ``check_object`` finds.

    Returns:
        Whether the IoU of box and mask's extent is below a half; None if they cannot be
        compared, as one of them is wrong or too small.
    """
    box = annotation.get('bbox')
    if problems or min(box[2:]) < _SMALLEST:
        return None
    return _iou(box, _extent(annotation['segmentation']), width, height) < _LEAST_OVERLAP


def check_masks(
    path: str, annotations: Sequence[Dict], images: Dict[Any, Dict]
) -> Iterator[Problem]:
    """Yield that the masks of a file contradict its boxes, and the likely cause.

    A sample of the objects is looked at, the same in each run.

    Args:
        path: The file.
        annotations: Its annotations, each of an image in ``images``.
        images: Entries of the file's images, by id.

    Yields:
        ``convention``, if it is so for more than 30 % of the sample.
    """
    sample = random.Random(0).sample(list(annotations), min(_SAMPLE, len(annotations)))
    looked_at, wrong = 0, []
    for annotation in sample:
        image = images[annotation['image_id']]
        size = [image.get('width'), image.get('height')]
        if not are_near(size) or min(size) <= 0:  # loading stops
            continue
        problems = list(check_object(annotation, *size, with_masks=True))
        found = contradicts(annotation, *size, problems)
        looked_at += found is not None
        if found:
            wrong.append((annotation, *size))
    if len(wrong) < max(_FEWEST, _WHOLE_FILE * looked_at):
        return
    yield Problem(
        'convention',
        path,
        f'masks must lie in their boxes, and {len(wrong)} of {looked_at} do not, such as that of '
        f'annotation {wrong[0][0].get("id")}; {_guess(wrong)}',
    )


def _guess(wrong: List[Tuple[Dict, int, int]]) -> str:
    """Return what explains the contradiction, and the cure."""
    fits = {
        'exchange x and y of the masks, or of the boxes': _exchanged,
        'write the run-length codes column by column, not row by row': _by_rows,
        'write boxes as [x, y, width, height], not [x1, y1, x2, y2]': _corners,
    }
    for cure, read in fits.items():
        explained = 0
        for annotation, width, height in wrong:
            pair = read(annotation, width, height)
            explained += pair is not None and _iou(*pair, width, height) >= _LEAST_OVERLAP
        if explained >= _EXPLAINED * len(wrong):
            return f'{explained} of them fit otherwise: {cure}'
    return 'boxes and masks may be of other pictures or sizes: export the file anew'


def _exchanged(annotation: Dict, width: int, height: int) -> Tuple[Box, Box]:
    x, y, w, h = _extent(annotation['segmentation'])
    return annotation['bbox'], (y, x, h, w)


def _by_rows(annotation: Dict, width: int, height: int) -> Optional[Tuple[Box, Box]]:
    """Read a code as one of the transposed mask, whose columns are the rows."""
    mask = annotation['segmentation']
    if isinstance(mask, list):
        return None
    y, x, h, w = _extent(dict(mask, size=[width, height]))
    return annotation['bbox'], (x, y, w, h)


def _corners(annotation: Dict, width: int, height: int) -> Tuple[Box, Box]:
    x1, y1, x2, y2 = annotation['bbox']
    return (x1, y1, x2 - x1, y2 - y1), _extent(annotation['segmentation'])


def _extent(mask: Any) -> Box:
    """Return the smallest box around a mask: a list of polygons, or a run-length code."""
    if isinstance(mask, list):
        x = [value for polygon in mask for value in polygon[::2]]
        y = [value for polygon in mask for value in polygon[1::2]]
        return min(x), min(y), max(x) - min(x), max(y) - min(y)
    from pycocotools.mask import frPyObjects, toBbox  # only mmdet requires it

    code = dict(mask, size=[int(side) for side in mask['size']])
    if not isinstance(code['counts'], str):
        code = frPyObjects(code, *code['size'])
    return tuple(toBbox(code).tolist())


def _iou(a: Box, b: Box, width: int, height: int) -> float:
    """Return the intersection over union of two boxes inside an image."""
    a, b = _inside(a, width, height), _inside(b, width, height)
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def _inside(box: Box, width: int, height: int) -> Box:
    """Return the corners x1, y1, x2, y2 of a box, clipped to an image."""
    x, y, w, h = box
    x1, y1 = min(max(x, 0), width), min(max(y, 0), height)
    return x1, y1, min(max(x + w, x1), width), min(max(y + h, y1), height)
