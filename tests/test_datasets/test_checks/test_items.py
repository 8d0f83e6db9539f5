"""Images against their annotations, and their segmentation maps."""

import cv2
import numpy as np
import pytest
from broken_data import IMAGES, resize
from data_checks import RULES, config, kinds, problems

from biformer_mm.datasets.checks import Problem
from biformer_mm.datasets.checks.items import Item, Rules, check_item
from biformer_mm.datasets.checks.pictures import Loading


def test_turned_image_has_the_size_that_training_sees(copy):
    path = copy('coco') / 'train' / '000000.jpg'
    IMAGES['exif-rotated'](path)  # 42 x 64 in the file
    assert kinds(check_item(RULES, Item(str(path), (64, 42)))) == ['exif-rotated']
    _, problem = check_item(RULES, Item(str(path), (42, 64)))
    assert problem.kind == 'size'
    assert '64 x 42 pixels, 42 x 64 by its annotations' in problem.detail
    unturned = Rules(Loading('color_ignore_orientation', 'cv2'))
    assert kinds(check_item(unturned, Item(str(path), (42, 64)))) == ['exif-rotated']


def test_file_of_another_size_than_annotated(copy):
    root = copy('coco')
    resize(root / 'train' / '000001.jpg', 48, 40)
    (problem,) = problems(config('retinanet_biformer', root))
    assert problem == Problem(
        'size', f'{root}/train/000001.jpg', '48 x 40 pixels, 64 x 64 by its annotations'
    )


def put(value, dtype=np.uint8):
    """Overwrite the first 9 of 64 rows."""

    def change(path):
        index_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(dtype)
        index_map[:9] = value
        cv2.imwrite(str(path), index_map)

    return change


def fill(value):
    return lambda path: cv2.imwrite(str(path), np.full((64, 64), value, np.uint8))


def three_channels(path):
    cv2.imwrite(str(path), cv2.imread(str(path)))


@pytest.mark.parametrize(
    'change, expected',
    [
        (put(0), []),
        (put(5), []),
        (put(6), ['map-label']),
        (put(254), ['map-label']),
        (put(255), []),
        (put(257, np.uint16), ['map-label']),
        (put(5, np.uint16), []),
        (fill(0), ['map-unlabelled']),
        (three_channels, ['map-channels']),
        (lambda path: path.unlink(), ['map-missing']),
        (IMAGES['empty-file'], ['empty-file']),
        (IMAGES['truncated'], ['truncated']),
        (IMAGES['no-image'], ['no-image']),
        (lambda path: resize(path, 32, 48), ['map-size']),
    ],
)
def test_segmentation_map(copy, change, expected):
    root = copy('ade20k')
    path = root / 'annotations' / 'training' / '000002.png'
    change(path)
    found = problems(config('semantic_fpn_biformer', root))
    assert kinds(found) == expected
    assert all(problem.file == str(path) for problem in found)


def test_labels_are_counted_and_named(copy):
    root = copy('ade20k')
    put(7)(root / 'annotations' / 'validation' / '000000.png')
    (problem,) = problems(config('semantic_fpn_biformer', root))
    assert problem.detail == f'labels (pixels) of no class: 7 ({9 * 64})'


def test_image_and_map_are_of_the_size_that_is_loaded(copy):
    """A turned image's map belongs to the turned image."""
    root = copy('ade20k')
    IMAGES['exif-rotated'](root / 'images' / 'training' / '000000.jpg')
    index_map = root / 'annotations' / 'training' / '000000.png'
    cfg = config('semantic_fpn_biformer', root)
    resize(index_map, 64, 42)
    assert kinds(problems(cfg)) == ['exif-rotated']
    resize(index_map, 42, 64)
    assert kinds(problems(cfg)) == ['exif-rotated', 'map-size']
