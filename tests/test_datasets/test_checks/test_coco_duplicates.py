"""Objects that a file lists more than once."""

import numpy as np
import pytest

from biformer_mm.datasets.checks.coco_duplicates import check_duplicates


def make(number=100):
    """Objects of 10 images and 3 categories; ids are numbers and texts."""
    rng = np.random.default_rng(0)
    return [
        dict(
            id=i,
            image_id=(i % 10, f'image {i % 10}')[i % 2],
            category_id=i % 3,
            bbox=(rng.random(4) * 90).round(1).tolist(),
        )
        for i in range(number)
    ]


def near(a, b):
    return all(abs(x - y) <= 0.5 for x, y in zip(a, b))


def pairs(annotations):
    """The pairs of one image, category and box, by comparing all with all."""
    return [
        (a['id'], b['id'])
        for i, a in enumerate(annotations)
        for b in annotations[i + 1 :]
        if (a['image_id'], a['category_id']) == (b['image_id'], b['category_id'])
        and near(a['bbox'], b['bbox'])
    ]


def twins(annotations, count, shift=0.0, **fields):
    return [
        dict(a, id=a['id'] + 1000, bbox=[v + shift for v in a['bbox']], **fields)
        for a in annotations[:count]
    ]


@pytest.mark.parametrize('shift', [0.0, 0.4, -0.4])
@pytest.mark.parametrize('count, kind', [(1, 'object-twice'), (5, 'object-twice')])
def test_some_twins_are_a_warning(count, kind, shift):
    annotations = make()
    assert not pairs(annotations)
    annotations += twins(annotations, count, shift)
    assert len(pairs(annotations)) == count
    (problem,) = check_duplicates('a.json', annotations)
    assert (problem.kind, problem.severity, problem.file) == (kind, 'warning', 'a.json')
    assert f'{count} of {100 + count} have the image' in problem.detail
    named = problem.detail.partition('such as annotations ')[2].partition(':')[0].split(' and ')
    assert tuple(sorted(map(int, named))) in pairs(annotations)


def test_many_twins_are_an_error():
    annotations = make()
    (problem,) = check_duplicates('a.json', annotations + twins(annotations, 6))
    assert (problem.kind, problem.severity) == ('many-objects-twice', 'error')
    (problem,) = check_duplicates('a.json', make(4) + twins(make(4), 4))  # too few to say
    assert problem.kind == 'object-twice'


@pytest.mark.parametrize(
    'other',
    [
        dict(shift=0.6),
        dict(category_id=9),
        dict(image_id=99),
        dict(iscrowd=1),
        dict(category_id=None),
    ],
)
def test_other_objects_are_no_twins(other):
    annotations = make()
    annotations += twins(annotations, 50, **other)
    assert list(check_duplicates('a.json', annotations)) == []


def test_wrong_boxes_are_no_twins():
    for box in (None, [1], 'abcd', [float('nan')] * 4, [10**400] * 4, [float('inf')] * 4):
        annotations = [dict(a, bbox=box) for a in make()]
        assert list(check_duplicates('a.json', annotations)) == []
    assert list(check_duplicates('a.json', [])) == []
