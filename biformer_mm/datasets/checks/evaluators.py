"""Prepare mmdet's COCO evaluators so that they count every object.

pycocotools reads some ids as "no match", and mmdet assumes an order of the
categories. Both only compare ids, so the annotations in an evaluator's memory
can be renumbered where it matters.
"""

from contextlib import redirect_stdout
from typing import Any, Dict, List, Optional, Sequence

import numpy as np


def is_coco_metric(metric: Any) -> bool:
    """Return whether a metric evaluates as mmdet's CocoMetric; subclasses may do otherwise."""
    kind = type(metric)
    # mmpose has a CocoMetric too.
    return kind.__module__.startswith('mmdet.') and kind.__name__ in (
        'CocoMetric',
        'FasterCocoMetric',
    )


def repair(metric: Any, image_ids: Optional[Sequence] = None) -> List[str]:
    """Correct in memory what would make a COCO evaluator count wrongly.

    Every change is exact: the result is that of a file in which it is written
    right. Category ids stay as they are if results are saved for another
    program, which would not know the new ones.

    Args:
        metric: The evaluator, before it is used. Others than mmdet's for COCO stay unchanged.
        image_ids: Ids of the images that its data set has, in order; None if
            the two do not read the same file. Other images of the file are not
            evaluated, instead of counted as missed.

    Returns:
        What was changed, one line each.
    """
    if not is_coco_metric(metric):
        return []
    said = []
    if not isinstance(metric.iou_thrs, np.ndarray):  # pycocotools compares it with numbers
        metric.iou_thrs = np.atleast_1d(np.asarray(metric.iou_thrs, float))
        said.append('iou_thrs is made an array, as pycocotools needs one')
    coco = metric._coco_api
    if coco is None:  # made of the data set's annotations, numbered from 1 on
        return said
    listed = coco.getImgIds()
    if image_ids and set(image_ids) < set(listed):
        metric.img_ids = list(image_ids)
        said.append(
            f'{len(set(image_ids))} of {len(listed)} images are evaluated, those of the data set'
        )
    annotations = coco.dataset.get('annotations', [])
    changed = _set_crowd(annotations) + _number_annotations(annotations)
    if not metric.outfile_prefix:
        changed += _number_categories(coco.dataset.get('categories', []), annotations)
    if changed:
        with redirect_stdout(None):  # it prints
            coco.createIndex()
        # mmdet's names of the same tables.
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return said + changed


def _set_crowd(annotations: Sequence[Dict]) -> List[str]:
    """Write iscrowd=0 where there is none; pycocotools fails without it."""
    without = [a for a in annotations if a.get('iscrowd') is None]
    for annotation in without:
        annotation['iscrowd'] = 0
    return [f'iscrowd is set to 0 in {len(without)} annotations without it'] if without else []


def _number_annotations(annotations: Sequence[Dict]) -> List[str]:
    """Number annotations from 1 on if an id is 0, no whole number, or twice there.

    pycocotools notes the id of the object that a detection matches, and reads 0
    as no match.
    """
    ids = [a['id'] for a in annotations]
    if all(type(i) is int and i for i in ids) and len(set(ids)) == len(ids):
        return []
    for number, annotation in enumerate(annotations, 1):
        annotation['id'] = number
    return [
        'annotations are numbered from 1 on: an id is 0 (pycocotools: no match), '
        'no whole number, or given twice'
    ]


def _number_categories(categories: Sequence[Dict], annotations: Sequence[Dict]) -> List[str]:
    """Number categories in the file's order if their ids do not ascend.

    mmdet names the results in the file's order, pycocotools sorts them by id.
    """
    ids = [c['id'] for c in categories]
    if all(type(i) is int for i in ids) and ids == sorted(ids):
        return []
    numbers = {value: number for number, value in enumerate(ids, 1)}
    if len(numbers) < len(ids) or any(a['category_id'] not in numbers for a in annotations):
        return []  # the checks of the file say what is wrong with it
    for entry, key in [(c, 'id') for c in categories] + [(a, 'category_id') for a in annotations]:
        entry[key] = numbers[entry[key]]
    return ['categories are numbered in the order of the file, as mmdet names them']
