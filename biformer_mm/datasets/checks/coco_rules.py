"""Find what is wrong with a COCO annotation file as a whole.

Quick enough for the start of a training: a few seconds for COCO's 860,000
objects. :func:`~biformer_mm.datasets.checks.coco.read_coco` also looks at every
object.
"""

from collections import Counter
from difflib import get_close_matches
from functools import reduce
from math import gcd
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np

from .coco_conventions import check_boxes
from .coco_duplicates import check_duplicates
from .coco_masks import check_masks, loads_masks
from .coco_training import check_filter, check_object_sizes
from .problems import Problem

# A split of fewer images may have objects of one class by chance.
_FEW_IMAGES = 5


def coco_rules(
    path: str,
    content: Dict,
    classes: Sequence[str],
    evaluated: bool,
    pipeline: Any = (),
    filter_cfg: Optional[Dict] = None,
    masks: bool = True,
) -> Iterator[Problem]:
    """Yield what is wrong with an annotation file as a whole.

    Args:
        path: The file.
        content: Its content. Entries must have the ids that ``pycocotools.coco.COCO`` reads;
            other fields may be missing, and so may the annotations.
        classes: Names of the config's classes.
        evaluated: Whether the file is evaluated on, and not trained on.
        pipeline: The steps of the data set.
        filter_cfg: Argument of the data set, which the evaluation does not use.
        masks: Whether the model uses masks, if the pipeline loads them.
    """
    images = {image['id']: image for image in content.get('images', ())}
    names = {c['id']: c.get('name') for c in content.get('categories', ())}
    if evaluated:
        yield from _check_image_ids(path, list(images))
    annotations = content.get('annotations')
    if not annotations:
        return
    known = [a for a in annotations if a['image_id'] in images]
    yield from _check_unlisted(path, annotations, len(known), images)
    yield from _check_crowd_values(path, known)
    conventions = list(check_boxes(path, known, images))
    yield from conventions
    if masks and loads_masks(pipeline) and not conventions:  # which would be the cause
        yield from check_masks(path, known, images)
    wanted = set(classes)
    used = [a for a in known if names.get(a.get('category_id')) in wanted]
    if not conventions:
        yield from check_duplicates(path, used)
    yield from _check_areas(path, used)
    yield from _check_ignored(path, used, evaluated)
    counted = [a for a in used if not a.get('iscrowd') and (evaluated or not a.get('ignore'))]
    if used and not counted and all(a.get('iscrowd') for a in used):
        yield Problem(
            'all-crowd',
            path,
            f'objects must have iscrowd=0, and all {len(used)} have 1: training and evaluation '
            'ignore them; set iscrowd to 0',
        )
        return
    found = Counter(names[a['category_id']] for a in counted)
    yield from _check_absent(path, content, classes, found, len(images))
    if not evaluated:
        yield from check_filter(path, content, classes, filter_cfg)
        yield from check_object_sizes(path, content, classes, pipeline)


def _check_image_ids(path: str, ids: List) -> Iterator[Problem]:
    """Refuse ids that cannot be sorted, or that change when NumPy sorts them.

    pycocotools looks up the objects of an image by the sorted ids.
    """
    try:
        lost = set(ids) - set(np.unique(sorted(ids)).tolist())
    except TypeError:
        lost = set(ids)
    if lost:
        example = next(i for i in ids if i in lost)
        yield Problem(
            'image-ids',
            path,
            f'ids of images must be all whole numbers below 2**63 or all texts, and pycocotools '
            f'cannot sort {len(lost)} of {len(ids)}, such as {example!r}: '
            'the evaluation would not find their objects, or stop; renumber the images',
        )


def _check_unlisted(
    path: str, annotations: Sequence[Dict], known: int, images: Dict
) -> Iterator[Problem]:
    """Find annotations of images that are not listed.

    Files of which only the images were thinned out work. Frame numbers in place of ids put some
    objects on wrong images.
    """
    unlisted = len(annotations) - known
    if unlisted <= 0.1 * len(annotations):
        return
    ids = {a['image_id'] for a in annotations}
    step = 0
    if images and all(type(i) is int for i in (*ids, *images)):
        step = reduce(gcd, ids) // (reduce(gcd, images) or 1)
    said = f'that of {unlisted} of {len(annotations)} annotations is not'
    if step > 1 and all(i // step in images for i in ids):
        yield Problem(
            'frame-numbers',
            path,
            f'image_id must be the id of an image, and {said}, but all are once divided by {step}, '
            'as frame numbers would: objects are on wrong images; correct image_id',
        )
    else:
        yield Problem(
            'unlisted-images',
            path,
            f'image_id must be the id of an image, and {said}: these objects are dropped',
        )


def _check_crowd_values(path: str, annotations: Sequence[Dict]) -> Iterator[Problem]:
    wrong = [a for a in annotations if a.get('iscrowd') not in (0, 1, None)]
    if wrong:
        yield Problem(
            'iscrowd',
            path,
            f'iscrowd must be 0 or 1, and {len(wrong)} of {len(annotations)} annotations have '
            f'another value, such as {wrong[0]["iscrowd"]!r}: any text counts as 1, so the object '
            'is ignored; write a number',
        )


def _check_areas(path: str, used: Sequence[Dict]) -> Iterator[Problem]:
    areas = [a.get('area') for a in used]
    none = sum(isinstance(area, (int, float)) and area <= 0 for area in areas)
    if none >= 0.5 * len(used) > 0:
        yield Problem(
            'no-area',
            path,
            f'area must be above 0, and {none} of {len(used)} objects have 0 or less: training '
            'leaves them out; write the area of the mask, or width x height of the box',
        )


def _check_ignored(path: str, used: Sequence[Dict], evaluated: bool) -> Iterator[Problem]:
    ignored = sum(bool(a.get('ignore')) and not a.get('iscrowd') for a in used)
    if ignored and evaluated:
        yield Problem(
            'ignored-objects',
            path,
            f'pycocotools does not read ignore, and {ignored} of {len(used)} objects have it: '
            'they count as missed; set iscrowd=1 to ignore them, or remove ignore to count them',
        )
    elif ignored:
        yield Problem(
            'ignored-in-training',
            path,
            f'{ignored} of {len(used)} objects have ignore=1: they are left out, so learnt as '
            'background',
        )


def _check_absent(
    path: str, content: Dict, classes: Sequence[str], found: Counter, images: int
) -> Iterator[Problem]:
    """Name the classes that have no object, and the likely cause."""
    listed_names = {c.get('name') for c in content.get('categories', ())}
    absent = [name for name in classes if name in listed_names and not found[name]]
    if not absent or not found:
        return
    listed = ', '.join(absent[:3]) + (f' and {len(absent) - 3} more' if absent[3:] else '')
    detail = (
        f'{len(absent)} of {len(classes)} classes have no object: {listed}'
        f'{_cause(content, absent[0], classes)}'
    )
    if len(found) == 1 < len(classes) and images >= _FEW_IMAGES:
        cure = 'annotate the others, or leave them out of metainfo.classes'
        yield Problem('only-one-class', path, f'{detail}; {cure}')
    else:
        yield Problem('absent-class', path, detail)


def _cause(content: Dict, absent: str, classes: Sequence[str]) -> str:
    """Return why a class may have no object, or ''."""
    categories = content.get('categories', ())
    if all(c.get('supercategory') == absent for c in categories if c.get('name') != absent):
        return f' ({absent} is the supercategory of all others: leave it out of metainfo.classes)'
    names = [c.get('name') for c in categories]
    others = {_plain(n): n for n in names if isinstance(n, str) and n not in classes}
    close = get_close_matches(_plain(absent), others, 1, 0.8)
    return f' (the file spells it {others[close[0]]!r})' if close else ''


def _plain(name: str) -> str:
    return name.strip().casefold()
