"""Images that a training leaves out, and objects that become too small for it."""

import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from biformer_mm.datasets.checks.coco_training import check_filter, check_object_sizes

CLASSES = ('cat', 'dog')


def make(images=40, empty=0, small=0, other=0, side=100):
    """A file: the first images have no object, others are small or have another class only."""
    sizes = [side] * (images - small) + [20] * small
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=w, height=100) for i, w in enumerate(sizes)],
        categories=[dict(id=i, name=name) for i, name in enumerate((*CLASSES, 'fish'))],
        annotations=[],
    )
    for i in range(empty, images):
        category = 2 if i < empty + other else i % 2
        content['annotations'].append(
            dict(id=i + 1, image_id=i, category_id=category, bbox=[2, 2, 12, 9], area=108)
        )
    return content


def left_out(content, path, filter_cfg):
    """How many images mmdet itself leaves out."""
    path.write_text(json.dumps(content))
    data = CocoDataset(
        ann_file=str(path),
        metainfo=dict(classes=CLASSES),
        data_prefix=dict(img=''),
        filter_cfg=filter_cfg,
        serialize_data=False,
    )
    return len(content['images']) - len(data)


BOTH = dict(filter_empty_gt=True, min_size=32)


@pytest.mark.parametrize(
    'fields, filter_cfg, kind, said',
    [
        (
            dict(empty=8),
            BOTH,
            'filtered',
            'by filter_cfg: without an object (filter_empty_gt): 8; to',
        ),
        (
            dict(other=8),
            BOTH,
            'filtered',
            'by filter_cfg: without an object (filter_empty_gt): 8; to',
        ),
        (dict(empty=39), BOTH, 'filtered', '(filter_empty_gt): 39; to'),
        (
            dict(small=8),
            BOTH,
            'filtered',
            'by filter_cfg: with a side below 32 pixels (min_size): 8; to',
        ),
        (
            dict(empty=3, other=2, small=4),
            BOTH,
            'filtered',
            '(filter_empty_gt): 5, with a side below 32 pixels (min_size): 4; to',
        ),
        (dict(small=8), dict(min_size=32), 'filtered', '(min_size): 8;'),
        (dict(small=20), BOTH, 'mostly-filtered', '(min_size): 20;'),
    ],
)
def test_images_that_are_left_out(fields, filter_cfg, kind, said, tmp_path):
    content = make(**fields)
    count = left_out(content, tmp_path / 'a.json', filter_cfg)
    (problem,) = check_filter('a.json', content, CLASSES, filter_cfg)
    assert problem[:2] == (kind, 'a.json')
    assert problem.detail.startswith(f'{count} of 40 images are left out of the training')
    assert said in problem.detail


@pytest.mark.parametrize(
    'fields, filter_cfg',
    [
        (dict(), BOTH),
        (dict(empty=20, small=9), None),
        (dict(empty=20), dict(filter_empty_gt=False, min_size=32)),
        (dict(images=200, empty=2), BOTH),  # COCO has 0.9 %
    ],
)
def test_nothing_is_said_of_few_or_no_images(fields, filter_cfg):
    assert list(check_filter('a.json', make(**fields), CLASSES, filter_cfg)) == []


def pipeline(*scale):
    return [dict(type='Resize', scale=scale, keep_ratio=True)]


def test_objects_that_become_small():
    content = make()
    (problem,) = check_object_sizes('a.json', content, CLASSES, pipeline(50, 50))
    assert problem[:2] == ('small-after-resize', 'a.json')
    assert '40 of 40 have less, the median being 5.2' in problem.detail  # half of sqrt(108)
    assert list(check_object_sizes('a.json', content, CLASSES, pipeline(100, 100))) == []


def test_the_largest_size_counts():
    steps = [dict(type='RandomChoiceResize', scales=[(50, 50), (100, 100)], keep_ratio=True)]
    assert list(check_object_sizes('a.json', make(), CLASSES, steps)) == []


def test_only_objects_that_are_trained_on_count():
    small = pipeline(50, 50)
    assert list(check_object_sizes('a.json', make(other=40), CLASSES, small)) == []
    for fields in (dict(iscrowd=1), dict(bbox=[2, 2, 0.5, 9]), dict(bbox=None), dict(bbox=3)):
        content = make()
        for annotation in content['annotations']:
            annotation.update(fields)
        assert list(check_object_sizes('a.json', content, CLASSES, small)) == []


def test_nothing_is_said_if_sizes_are_not_known():
    for steps in (None, [], [dict(type='Mosaic'), *pipeline(50, 50)]):
        assert list(check_object_sizes('a.json', make(), CLASSES, steps)) == []
    for side in (None, 'a', 0, 10**400):
        assert list(check_object_sizes('a.json', make(side=side), CLASSES, pipeline(9, 9))) == []


def test_sizes_like_those_of_coco_are_silent():
    """Sides from 2 to 400 pixels, evenly on a logarithmic scale, at 1333 x 800."""
    rng = np.random.default_rng(0)
    content = make(images=200)
    for image, annotation in zip(content['images'], content['annotations']):
        image.update(width=640, height=480)
        annotation['bbox'] = [0, 0, *np.exp(rng.uniform(np.log(2), np.log(400), 2)).tolist()]
    assert list(check_object_sizes('a.json', content, CLASSES, pipeline(1333, 800))) == []
