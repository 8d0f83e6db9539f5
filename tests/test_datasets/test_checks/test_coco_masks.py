"""Masks that lie elsewhere than their boxes."""

import json

import numpy as np
import pytest
from data_checks import check_coco

from biformer_mm.datasets.checks.coco_masks import check_masks, contradicts
from biformer_mm.datasets.checks.coco_objects import check_object

pycocotools = pytest.importorskip('pycocotools.mask')
WIDTH, HEIGHT = 160, 120


def drawn(box):
    """The mask of a box, (height, width)."""
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def counts(pixels):
    """Lengths of runs of zeros and ones in turn, by a plain loop."""
    found, value = [0], 0
    for pixel in pixels.tolist():
        if pixel != value:
            found.append(0)
            value = pixel
        found[-1] += 1
    return found


def polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def code(box):
    return dict(size=[HEIGHT, WIDTH], counts=counts(drawn(box).ravel(order='F')))


def packed(box):
    found = pycocotools.encode(np.asfortranarray(drawn(box)))
    return dict(size=found['size'], counts=found['counts'].decode())


def make(write, number=60):
    """Healthy objects of two images, high and narrow or wide and low."""
    rng = np.random.default_rng(0)
    annotations = []
    for i in range(number):
        w, h = rng.integers(8, 20), rng.integers(30, 60)
        if i % 2:
            w, h = h, w
        box = [int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h)), int(w), int(h)]
        annotations.append(dict(id=i, image_id=i % 2, bbox=box, segmentation=write(box)))
    return annotations, {i: dict(id=i, width=WIDTH, height=HEIGHT) for i in range(2)}


def of(annotation):
    problems = list(check_object(annotation, WIDTH, HEIGHT, True))
    return contradicts(annotation, WIDTH, HEIGHT, problems)


@pytest.mark.parametrize('write', [polygon, code, packed])
def test_healthy_masks_are_silent(write):
    annotations, images = make(write)
    assert [of(annotation) for annotation in annotations] == [False] * 60
    assert list(check_masks('a.json', annotations, images)) == []


def exchange(annotation):
    (xy,) = annotation['segmentation']
    annotation['segmentation'] = [[v for pair in zip(xy[1::2], xy[::2]) for v in pair]]


def write_by_rows(annotation):
    annotation['segmentation']['counts'] = counts(drawn(annotation['bbox']).ravel())


def write_corners(annotation):
    x, y, w, h = annotation['bbox']
    annotation['bbox'] = [x, y, x + w, y + h]


def move(annotation):
    annotation['bbox'] = [1, 1, 9, 9]


@pytest.mark.parametrize(
    'write, change, cure',
    [
        (polygon, exchange, 'exchange x and y of the masks'),
        (code, write_by_rows, 'column by column, not row by row'),
        (code, write_corners, 'not [x1, y1, x2, y2]'),
        (polygon, move, 'export the file anew'),
    ],
)
def test_a_file_whose_masks_are_elsewhere_is_one_error(write, change, cure):
    annotations, images = make(write)
    for annotation in annotations:
        change(annotation)
    (problem,) = check_masks('a.json', annotations, images)
    assert problem[:2] == ('convention', 'a.json')
    assert cure in problem.detail


def test_a_share_of_wrong_masks_is_no_error_of_the_file():
    annotations, images = make(polygon)
    for annotation in annotations[:15]:
        move(annotation)
    assert sum(map(of, annotations)) == 15
    assert list(check_masks('a.json', annotations, images)) == []
    for annotation in annotations[15:20]:
        move(annotation)
    assert len(list(check_masks('a.json', annotations, images))) == 1


def test_what_cannot_be_compared():
    annotation = make(polygon)[0][0]
    for fields in (
        dict(bbox=None),
        dict(bbox=[0, 0, 3, 90]),  # too small
        dict(bbox=[WIDTH - 9, 0, 90, 90]),  # said already
        dict(bbox=['1', 2, 3, 4]),
        dict(segmentation=None),
        dict(segmentation=3),
        dict(segmentation=[[1, 2, 3]]),
        dict(segmentation=dict(size=[9, 9], counts=[81])),
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[1])),
    ):
        assert of(dict(annotation, **fields)) is None
    for size in ((None, 3), (10**400, 3), ('a', 'b'), (0, 0)):
        images = {0: dict(id=0, width=size[0], height=size[1])}
        assert list(check_masks('a.json', [annotation] * 9, images)) == []


def test_masks_over_the_edge_are_compared_inside_the_image():
    over = polygon([WIDTH - 20, 20, 60, 30])
    assert of(dict(bbox=[WIDTH - 20, 20, 20, 30], segmentation=over)) is False


def test_single_objects_of_a_file(copy):
    """The demo's file with one mask moved."""
    path = copy('coco') / 'annotations' / 'instances_train.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'] = [50, 50, 12, 12]
    content['annotations'][0]['segmentation'] = [[2, 2, 12, 2, 12, 12, 2, 12]]
    path.write_text(json.dumps(content))
    (problem,) = check_coco(path)[1]
    assert problem.kind == 'mask-box'
    assert check_coco(path, with_masks=False)[1] == []
