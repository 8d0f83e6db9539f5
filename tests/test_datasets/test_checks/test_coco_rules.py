"""What is wrong with a whole COCO file, and files of known data sets that must pass."""

import copy as copying
import json

import numpy as np
import pytest
from data_checks import check_coco

from biformer_mm.datasets.checks.coco_rules import coco_rules

CLASSES = ('cat', 'dog', 'bird')


def make(images=10, objects=6, classes=CLASSES):
    """Content of a healthy file: the objects of an image are of all classes in turn."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(images * objects):
        x, y = rng.integers(0, 50, 2).tolist()
        w, h = rng.integers(5, 100 - max(x, y), 2).tolist()
        annotations.append(
            dict(
                id=number + 1,
                image_id=7 * (number // objects),
                category_id=2 * (number % len(classes)),
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=0,
            )
        )
    return dict(
        images=[dict(id=7 * i, file_name=f'{i}.jpg', width=100, height=100) for i in range(images)],
        annotations=annotations,
        categories=[dict(id=2 * i, name=name) for i, name in enumerate(classes)],
    )


def find(content, evaluated=True, classes=CLASSES):
    before = copying.deepcopy(content)
    found = list(coco_rules('a.json', content, classes, evaluated))
    assert repr(content) == repr(before), 'the content must stay as it is'
    assert all(problem.file == 'a.json' for problem in found)
    return {problem.kind: problem.detail for problem in found}


def every(step=1, **fields):
    def change(content):
        for annotation in content['annotations'][::step]:
            annotation.update(fields)

    return change


def number_frames(content):
    for annotation in content['annotations']:
        annotation['image_id'] *= 5


def set_image_ids(*ids):
    def change(content):
        for image, new in zip(content['images'], ids):
            for annotation in content['annotations']:
                if annotation['image_id'] == image['id']:
                    annotation['image_id'] = new
            image['id'] = new

    return change


WRONG = [
    ('no-area', every(area=0), '60 of 60 objects have 0 or less'),
    ('no-area', every(2, area=0), '30 of 60 objects have 0 or less'),
    ('all-crowd', every(iscrowd=1), 'all 60 have 1'),
    ('ignored-objects', every(3, ignore=1), '20 of 60 objects have it'),
    ('iscrowd', every(3, iscrowd='0'), "20 of 60 annotations have another value, such as '0'"),
    ('iscrowd', every(60, iscrowd=[1]), '1 of 60 annotations have another value, such as [1]'),
    ('frame-numbers', number_frames, '48 of 60 annotations is not, but all are once divided by'),
    ('image-ids', set_image_ids('0'), '10 of 10'),
    ('image-ids', set_image_ids(2**63 + 1), '1 of 10'),
    ('only-one-class', every(category_id=2), '2 of 3 classes have no object: cat, bird; annotate'),
]


@pytest.mark.parametrize('kind, change, said', WRONG)
def test_a_wrong_file_is_one_error(kind, change, said):
    content = make()
    change(content)
    found = find(content)
    found.pop('absent-class', None)  # may follow
    assert set(found) == {kind}
    assert said in found[kind]


RIGHT = {
    'healthy': lambda content: None,
    'without annotations': lambda content: content.pop('annotations'),
    'without objects': lambda content: content.update(annotations=[]),
    'crowds': every(7, iscrowd=1),
    'iscrowd missing': lambda content: [a.pop('iscrowd') for a in content['annotations']],
    'iscrowd true or false': every(7, iscrowd=True),
    'ignore=0': every(ignore=0),
    'ignored crowds': every(7, ignore=1, iscrowd=1),
    'some areas are 0': every(3, area=0),
    'area missing': lambda content: [a.pop('area') for a in content['annotations']],
    'some unlisted images': every(20, image_id=1),
    'text ids': set_image_ids(*'abcdefghij'),
    'ids that are fractions': set_image_ids(*(i + 0.0 for i in range(10))),
    'huge ids': set_image_ids(*(2**70 + i for i in range(10))),
    'odd values of other fields': lambda content: [
        content['images'][0].update(width=10**400, height=None),
        content['annotations'][1].update(area=-(10**400), segmentation=3),
        content['annotations'][2].update(bbox=[1e308] * 4),
        content['categories'][0].update(supercategory=[]),
    ],
    'ids in no order': set_image_ids(*range(100, 90, -1)),
    'other categories': lambda content: content['categories'].append(dict(id=99, name='fish')),
}


@pytest.mark.parametrize('evaluated', [True, False])
@pytest.mark.parametrize('case', RIGHT)
def test_what_works_is_not_refused(case, evaluated):
    content = make()
    RIGHT[case](content)
    assert find(content, evaluated) == {}


def test_rules_that_do_not_concern_training():
    content = make()
    every(3, ignore=1)(content)
    set_image_ids('0')(content)
    found = find(content, evaluated=False)
    # Every third object is a cat; they are not trained on.
    assert set(found) == {'ignored-in-training', 'absent-class'}


@pytest.mark.parametrize(
    'extra, said',
    [
        ([dict(id=50, name='Bird ')], "bird (the file spells it 'Bird ')"),
        ([], '1 of 3 classes have no object: bird'),
    ],
)
def test_absent_classes_and_their_cause(extra, said):
    content = make(classes=('cat', 'dog'))
    content['categories'] += [dict(id=40, name='bird'), *extra]
    found = find(content)
    assert set(found) == {'absent-class'}
    assert found['absent-class'].endswith(said)


def test_a_supercategory_is_named_as_the_cause():
    """As some exports list it among the categories."""
    content = make(classes=('cat', 'dog'))
    for category in content['categories']:
        category['supercategory'] = 'animals'
    content['categories'].insert(0, dict(id=99, name='animals', supercategory='none'))
    found = find(content, classes=('animals', 'cat', 'dog'))
    assert 'animals is the supercategory of all others' in found['absent-class']


def test_one_class_of_few_images_may_be_chance():
    content = make(images=4)
    every(category_id=2)(content)
    assert set(find(content)) == {'absent-class'}
    assert find(make(classes=('cat',)), classes=('cat',)) == {}  # one class is what is wanted


def test_implied_problems_of_objects_are_not_repeated(copy):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        annotation.update(bbox=[x, y, x + w, y + h], area=0)
    path.write_text(json.dumps(content))
    assert sorted(problem.kind for problem in check_coco(path)[1]) == ['convention', 'no-area']
    number_frames(content)
    path.write_text(json.dumps(content))
    found = {problem.kind for problem in check_coco(path)[1]}
    assert 'frame-numbers' in found
    assert 'unknown-image' not in found


def test_thinned_out_images_are_a_warning():
    content = make()
    every(5, image_id=1)(content)
    (problem,) = coco_rules('a.json', content, CLASSES, evaluated=True)
    assert problem.severity == 'warning'
    assert 'that of 12 of 60 annotations is not: these objects are dropped' in problem.detail


@pytest.mark.parametrize('evaluated', [True, False])
def test_annotations_like_those_of_coco_are_silent(evaluated):
    """Ids with gaps, 1% crowds, flat boxes, images without objects."""
    content = make(images=100, objects=8, classes=[f'class {i}' for i in range(80)])
    for annotation in content['annotations'][::100]:
        annotation['iscrowd'] = 1
    content['annotations'][5]['bbox'][3] = 0
    content['images'] += [
        dict(id=10**6 + i, file_name=f'_{i}.jpg', width=9, height=9) for i in range(9)
    ]
    assert find(content, evaluated, [f'class {i}' for i in range(80)]) == {}


def test_rules_of_the_pipeline():
    """Masks wherever they are loaded; sizes and filters only of a training."""
    content = make()
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + w, y, x + w, y + h]]
    pipeline = [
        dict(type='LoadAnnotations', with_mask=True),
        dict(type='Resize', scale=(9, 9), keep_ratio=True),
    ]

    def of(evaluated):
        rules = coco_rules(
            'a.json', content, CLASSES, evaluated, pipeline, dict(min_size=101, filter_empty_gt=1)
        )
        return {problem.kind for problem in rules}

    assert of(evaluated=True) == set()
    assert of(evaluated=False) == {'mostly-filtered', 'small-after-resize'}
    every(segmentation=[[90, 90, 99, 90, 99, 99]])(content)
    assert of(evaluated=True) == {'convention'}
    pipeline[0]['with_mask'] = False
    assert of(evaluated=True) == set()


def test_boxes_in_another_convention_are_not_blamed_on_masks():
    content = make()
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        annotation.update(bbox=[x, y, x + w, y + h], segmentation=[[x, y, x + w, y, x + w, y + h]])
    loading = [dict(type='LoadAnnotations', with_mask=True)]
    (problem,) = coco_rules('a.json', content, CLASSES, True, loading)
    assert problem.kind == 'convention' and 'fit as [x1, y1, x2, y2]' in problem.detail


def test_masks_that_the_model_does_not_use_may_be_anywhere():
    content = make()
    every(segmentation=[[90, 90, 99, 90, 99, 99]])(content)
    loading = [dict(type='LoadAnnotations', with_mask=True)]
    assert list(coco_rules('a.json', content, CLASSES, True, loading, masks=False)) == []


def test_boxes_in_shares_of_the_image_are_one_problem():
    content = make()
    for annotation in content['annotations']:
        annotation['bbox'] = [value / 1000 for value in annotation['bbox']]
    (problem,) = coco_rules('a.json', content, CLASSES, True)
    assert problem.kind == 'convention' and 'leave their image' not in problem.detail
