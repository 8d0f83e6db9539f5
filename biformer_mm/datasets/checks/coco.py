"""Check an annotation file in COCO's format."""

import json
import math
import os.path as osp
from collections import Counter
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from .coco_masks import contradicts, loads_masks
from .coco_objects import LEFT_OUT, check_object
from .coco_rules import coco_rules
from .items import Item
from .problems import Problem

# The fields that mmdet requires of each entry.
_FIELDS = dict(
    images=('id', 'file_name', 'width', 'height'),
    annotations=('id', 'image_id', 'category_id', 'area'),
    categories=('id', 'name'),
)

# By kind of problem of a whole file: those of single objects that follow from it.
_IMPLIED = {
    'convention': ('box-over-edge', 'box-outside', 'box-empty', 'mask-box'),
    'no-area': ('area',),
    'frame-numbers': ('unknown-image',),
    'unlisted-images': ('unknown-image',),
}


def read_coco(dataset: Any, pipeline: Sequence[Dict]) -> Tuple[List[Item], List[Problem]]:
    """List the items of a ``CocoDataset`` and the problems of its annotations.

    Problems of single objects that follow from one of the whole file are left out.

    Args:
        dataset: The data set, built lazily.
        pipeline: Its steps.
    """
    path = dataset.ann_file
    try:
        with open(path) as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        return [], [Problem('json', path, f'cannot be read: {error}')]
    problems = list(_check_structure(path, content))
    if problems:  # nothing can be looked up safely
        return [], problems
    images = {image['id']: image for image in content['images']}
    classes = dataset.metainfo['classes']
    problems += coco_rules(path, content, classes, dataset.test_mode, pipeline, dataset.filter_cfg)
    implied = {kind for problem in problems for kind in _IMPLIED.get(problem.kind, ())}
    problems += _check_ids(path, content)
    problems += _check_classes(path, content, classes)
    problems += (
        problem
        for problem in _check_annotations(path, content, images, loads_masks(pipeline))
        if problem.kind not in implied
    )
    return [
        Item(
            osp.join(dataset.data_prefix['img'], image['file_name']),
            (image['width'], image['height']),
        )
        for image in images.values()
    ], problems


def _check_structure(path: str, content: Any) -> Iterator[Problem]:
    if not isinstance(content, dict):
        yield Problem('field', path, 'is not an object with images, annotations and categories')
        return
    for part, fields in _FIELDS.items():
        entries = content.get(part)
        if not isinstance(entries, list):
            yield Problem('field', path, f'has no list of {part}')
            continue
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict):
                yield Problem('field', path, f'{part}[{number}] is not an object')
                continue
            for field in fields:
                value = entry.get(field)
                is_right, meaning = _RULES[field]
                if not is_right(value):
                    said = f'{field}={value!r}' if field in entry else 'none'
                    yield Problem(
                        'field', path, f'{part}[{number}] must have {meaning}; it has {said}'
                    )


def _is_integer(value: Any) -> bool:
    """Return whether a value is an integer; some programs write 640.0 for 640."""
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        or isinstance(value, float)
        and value.is_integer()
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or _is_integer(value)


def _is_length(value: Any) -> bool:
    return _is_integer(value) and value > 0


# By field: whether a value is right, and what the message says it must be.
_RULES = {
    'id': (_is_id, 'an id, a whole number or a text'),
    'image_id': (_is_id, "an image_id, an image's id"),
    'category_id': (_is_id, "a category_id, a category's id"),
    'file_name': (lambda value: isinstance(value, str) and value != '', 'a file_name'),
    'name': (lambda value: isinstance(value, str), 'a name'),
    'width': (_is_length, 'a width in whole pixels'),
    'height': (_is_length, 'a height in whole pixels'),
    'area': (lambda value: isinstance(value, (int, float)), 'an area, a number'),
}


def _check_ids(path: str, content: Dict) -> Iterator[Problem]:
    for part, kind in (
        ('images', 'duplicate-image-id'),
        ('annotations', 'duplicate-annotation-id'),
    ):
        for value, count in _repeated(e['id'] for e in content[part]):
            yield Problem(kind, path, f'{count} {part} have id {value}')
    for name, count in _repeated(e['file_name'] for e in content['images']):
        yield Problem('duplicate-file', path, f'{count} images are the file {name}')


def _repeated(values: Iterator) -> Iterator[Tuple[Any, int]]:
    return ((value, count) for value, count in Counter(values).items() if count > 1)


def _check_classes(path: str, content: Dict, classes: Sequence[str]) -> Iterator[Problem]:
    """Compare the file's categories with the config's classes.

    mmdet's labels are positions among the file's categories that the config
    names, in the file's order. Any other order or number shifts the labels.
    """
    names = [category['name'] for category in content['categories']]
    missing = [name for name in classes if name not in names]
    if missing:
        yield Problem(
            'class-missing',
            path,
            f"no category is named {', '.join(missing)}, which the config's "
            'classes have: all labels behind are shifted',
        )
    for name, count in _repeated(name for name in names if name in classes):
        yield Problem('class-twice', path, f'{count} categories are {name}')
    known = [name for name in names if name in classes]
    wanted = [name for name in classes if name in names]
    if known != wanted and sorted(known) == sorted(wanted):
        yield Problem(
            'class-order',
            path,
            f"the file's order is {_start(known)}, the config's "
            f'{_start(wanted)}: names are exchanged',
        )
    objects = Counter(a['category_id'] for a in content['annotations'])
    for category in content['categories']:
        if category['name'] not in classes and objects[category['id']]:
            yield Problem(
                'unused-category',
                path,
                f"{category['name']} is not among the config's classes: "
                f'{objects[category["id"]]} objects are left out',
            )


def _start(names: List[str]) -> str:
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def _check_annotations(
    path: str, content: Dict, images: Dict, with_masks: bool
) -> Iterator[Problem]:
    categories = {category['id'] for category in content['categories']}
    used = set()
    for annotation in content['annotations']:
        said = f'annotation {annotation["id"]}'
        image = images.get(annotation['image_id'])
        if image is None:
            yield Problem(
                'unknown-image', path, f'{said}: no image has id {annotation["image_id"]!r}'
            )
            continue
        used.add(annotation['image_id'])
        said = f'{said} of {image["file_name"]}'
        if annotation.get('ignore'):  # mmdet skips it
            continue
        if annotation['category_id'] not in categories:
            yield Problem(
                'unknown-category',
                path,
                f'{said}: no category has id {annotation["category_id"]!r}',
            )
        area = annotation['area']
        if not 0 < area < math.inf:
            if area == 0:
                outcome = LEFT_OUT
            elif area < 0:  # pycocotools ignores it
                outcome = 'is left out of training and evaluation'
            else:  # passes mmdet's condition
                outcome = 'is trained on, makes mAP wrong'
            yield Problem('area', path, f'{said}: area {area}, {outcome}')
        size = image['width'], image['height']
        found = list(check_object(annotation, *size, with_masks))
        if with_masks and contradicts(annotation, *size, found):
            found.append(('mask-box', f'its mask is not in its bbox {annotation["bbox"]}'))
        for kind, detail in found:
            yield Problem(kind, path, f'{said}: {detail}')
    for value, image in images.items():
        if value not in used:
            yield Problem('image-without-objects', path, f'{image["file_name"]} has none')
    if images and not used:
        yield Problem('no-objects', path, 'no image has an object')
