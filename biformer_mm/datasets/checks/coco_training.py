"""Find what a detector's training does not see of a COCO annotation file."""

from typing import Any, Dict, Iterator, Optional, Sequence

import numpy as np

from .coco_conventions import as_array
from .coco_objects import FARTHEST, are_near
from .problems import Problem
from .resizing import enlargement

# Share of the images that may be left out in silence; 0.9 % of COCO have no object.
_FEW_LEFT_OUT = 0.02
# Share of the images from which on the data are lost, and the fewest images that count.
_MOST, _FEWEST = 0.5, 5
# Sides of objects that vanish in a detector's features of stride 8, in pixels.
_SMALL = 8
_MANY_SMALL = 0.3


def check_filter(
    path: str, content: Dict, classes: Sequence[str], filter_cfg: Optional[Dict]
) -> Iterator[Problem]:
    """Count the images that ``CocoDataset`` leaves out of the training.

    Args:
        path: The annotation file.
        content: What is in it.
        classes: Names of the config's classes.
        filter_cfg: Argument of the data set.

    Yields:
        ``filtered`` (warning); ``mostly-filtered`` (error) if half of the images are too small.
        Leaving out those without an object is what people want who train on some of the classes.
    """
    images = {image['id']: image for image in content.get('images', ())}
    filters = filter_cfg or {}
    least = filters.get('min_size', 0)
    wanted = {c['id'] for c in content.get('categories', ()) if c.get('name') in classes}
    used = {a['image_id'] for a in content['annotations'] if a.get('category_id') in wanted}
    empty, small = 0, 0
    for value, image in images.items():
        if filters.get('filter_empty_gt') and value not in used:
            empty += 1
        elif are_near([image.get('width'), image.get('height')]):
            small += min(image['width'], image['height']) < least
    if empty + small <= _FEW_LEFT_OUT * len(images):
        return
    causes = []
    if empty:
        causes.append(f'without an object (filter_empty_gt): {empty}')
    if small:
        causes.append(f'with a side below {least} pixels (min_size): {small}')
    most = small >= max(_MOST * len(images), _FEWEST)
    yield Problem(
        'mostly-filtered' if most else 'filtered',
        path,
        f'{empty + small} of {len(images)} images are left out of the training by filter_cfg: '
        f'{", ".join(causes)}; to train on them, set filter_cfg=None in the data set',
    )


def check_object_sizes(
    path: str, content: Dict, classes: Sequence[str], pipeline: Any
) -> Iterator[Problem]:
    """Find that objects are tiny after resizing, at the largest size that the pipeline takes.

    Args:
        path: The annotation file.
        content: What is in it.
        classes: Names of the config's classes.
        pipeline: The steps of the data set.

    Yields:
        ``small-after-resize`` (warning), if it is so for more than 30 % of the objects.
    """
    sizes = {i['id']: [i.get('width'), i.get('height')] for i in content.get('images', ())}
    sizes = {k: tuple(size) for k, size in sizes.items() if are_near(size) and min(size) > 0}
    factors: Dict = {}
    for size in set(sizes.values()):
        found = enlargement(pipeline, size)
        if found is None:
            return
        factors[size] = found[1]
    wanted = {c['id'] for c in content.get('categories', ()) if c.get('name') in classes}
    objects = [
        a
        for a in content['annotations']
        if a.get('category_id') in wanted and not a.get('iscrowd') and a['image_id'] in sizes
    ]
    boxes = as_array([a.get('bbox') for a in objects])
    scales = np.array([factors[sizes[a['image_id']]] for a in objects], float)
    counted = (boxes[:, 2:] >= 1).all(1) & (boxes[:, 2:] <= FARTHEST).all(1)  # others are left out
    sides = scales[counted] * np.sqrt(boxes[counted, 2] * boxes[counted, 3])
    small = sides < _SMALL
    if len(small) >= _FEWEST and small.mean() > _MANY_SMALL:
        yield Problem(
            'small-after-resize',
            path,
            f'objects should have sides of {_SMALL} pixels or more after resizing, and '
            f'{small.sum()} of {len(small)} have less, the median being '
            f'{np.median(sides):.1f}: features are too coarse for them; set a larger Resize scale '
            'in the pipelines, or cut the images into tiles',
        )
