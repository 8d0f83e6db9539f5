"""Areas and masks of single objects."""

import numpy as np
import pytest
from broken_data import annotations, change_first
from data_checks import check_coco, config, kinds
from mmengine.registry import DATASETS, init_default_scope
from pycocotools.mask import encode, frPyObjects

from biformer_mm.datasets.checks.coco_objects import _wrong_counts

INF, NAN = float('inf'), float('nan')


@pytest.mark.parametrize(
    'area, outcome',
    [
        (0, 'is left out of training and counts as missed in evaluation'),
        (-1, 'is left out of training and evaluation'),
        (-INF, 'is left out of training and evaluation'),
        (INF, 'is trained on, makes mAP wrong'),
        (NAN, 'is trained on, makes mAP wrong'),
    ],
)
def test_outcome_of_a_wrong_area_is_what_mmdet_does(copy, area, outcome):
    root = copy('coco')
    path = root / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        change_first(area=area)(content)
        image_id = content['annotations'][0]['image_id']
        count = sum(x['image_id'] == image_id for x in content['annotations'])
    (problem,) = check_coco(path)[1]
    assert problem.detail.endswith(f': area {area}, {outcome}')
    cfg = config('retinanet_biformer', root)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    left = count - ('left out' in outcome)
    assert len(dataset.get_data_info(0)['instances']) == left


def test_run_length_codes_of_either_kind_are_read(copy):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    mask = np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8)
    mask[:, 20:50] = 0  # a long run
    runs = np.flatnonzero(np.diff(mask.ravel('F'), prepend=0)).tolist()
    plain = np.diff([0, *runs, mask.size]).tolist()
    packed = encode(np.asfortranarray(mask))['counts'].decode()
    for counts, expected in (
        (plain, []),
        (packed, []),
        (plain[1:], ['mask-invalid']),
        (plain[:-1], ['mask-invalid']),
        (packed[:-1], ['mask-invalid']),
    ):
        with annotations(path) as content:
            code = dict(size=[64, 64], counts=counts)
            change_first(bbox=[0, 0, 64, 64], segmentation=code)(content)
        assert kinds(check_coco(path)[1]) == expected


@pytest.mark.parametrize(
    'counts, said',
    [
        ('', 'do not sum to its pixels'),
        ('0', 'do not sum to its pixels'),
        ('\ud800', 'do not sum to its pixels'),
        ([5000], 'do not sum to its pixels'),
        ([-1, 4097], 'do not sum to its pixels'),
        ([2**70], 'do not sum to its pixels'),
        (['a'], 'do not sum to its pixels'),
        ([[4096]], 'do not sum to its pixels'),
        # pycocotools reads on behind these, and writes where it must not.
        ('zzzo', 'end in the middle of a number'),
        ('o\0' + 'o' * 4000, 'end in the middle of a number'),
        (None, 'are a NoneType, not a list or a text'),
        ({}, 'are a dict, not a list or a text'),
    ],
)
def test_a_wrong_run_length_code_is_explained(copy, counts, said):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        change_first(segmentation=dict(size=[64, 64], counts=counts))(content)
    (problem,) = check_coco(path)[1]
    assert problem.kind == 'mask-invalid'
    assert problem.detail == f"annotation 1 of 000000.jpg: mask's counts {said}"


def test_run_length_codes_agree_with_their_runs():
    """Of random codes, some of them damaged, against the sum of the runs."""
    rng = np.random.default_rng(0)
    right = 0
    for i in range(300):
        runs = rng.integers(0, 60, rng.integers(1, 9)).tolist()
        off = int(rng.integers(-2, 3)) if i % 2 else 0
        code = frPyObjects(dict(size=[1, sum(runs)], counts=runs), 1, sum(runs))['counts']
        pixels = sum(runs) + off
        for counts in (runs, code.decode()):
            fits = pixels > 0 and _wrong_counts(counts, pixels) is None
            assert fits == (pixels > 0 and off == 0), (runs, off)
        right += off == 0
    assert 150 <= right < 300
