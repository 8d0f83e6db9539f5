"""Every kind of problem of annotations in COCO's format, made on purpose."""

import pytest
from broken_data import annotations, change_first
from data_checks import check_coco, config, kinds, problems
from mmengine.registry import DATASETS

from biformer_mm.datasets.checks.guard import guard_data

INF, NAN = float('inf'), float('nan')


def drop_first(field):
    return lambda content: content['annotations'][0].pop(field)


def same_id(part):

    def change(content):
        content[part][1]['id'] = content[part][0]['id']

    return change


def drop_objects_of_first(content):
    first = content['images'][0]['id']
    content['annotations'] = [x for x in content['annotations'] if x['image_id'] != first]


COCO = [
    ('box-empty', change_first(bbox=[10, 10, 0, 5])),
    ('box-empty', change_first(bbox=[20, 20, -9, 9])),
    ('box-outside', change_first(bbox=[64, 10, 9, 9])),
    ('box-outside', change_first(bbox=[10, -9, 9, 9])),
    ('box-over-edge', change_first(bbox=[60, 10, 6, 9])),
    ('box-over-edge', change_first(bbox=[-2, 10, 9, 9])),
    ('mask-box', change_first(segmentation=[[1, 50, 9, 50, 9, 60]], bbox=[40, 3, 9, 9])),
    ('box-invalid', change_first(bbox=[NAN, 5, 9, 9])),
    ('box-invalid', change_first(bbox=[5, 5, INF, 9])),
    ('box-invalid', change_first(bbox=[5, 5, 9])),
    ('box-invalid', change_first(bbox=['5', '5', '9', '9'])),
    ('box-missing', drop_first('bbox')),
    ('box-missing', change_first(bbox=None)),
    ('area', change_first(area=0)),
    ('area', change_first(area=NAN)),
    ('area', change_first(area=-(10**400))),
    ('field', drop_first('area')),
    ('field', drop_first('category_id')),
    ('field', lambda content: content['images'][0].pop('width')),
    ('field', lambda content: content['images'][0].update(height=0)),
    ('field', lambda content: content.pop('categories')),
    ('field', lambda content: content['annotations'].append(None)),
    ('polygon', change_first(segmentation=[[1, 1, 9, 9]])),
    ('polygon', change_first(segmentation=[[1, 1, 9, 9, 5, 5, 3]])),
    ('mask-invalid', change_first(segmentation=[[1, 1, 9, 9, 5, NAN]])),
    ('mask-invalid', change_first(segmentation=dict(size=[32, 32], counts=[1024]))),
    ('mask-invalid', change_first(segmentation=dict(size=[64, 64], counts=[1024]))),
    ('mask-invalid', change_first(segmentation=dict(size=[64, 64], counts='zz'))),
    ('mask-invalid', change_first(segmentation='zz')),
    ('mask-missing', drop_first('segmentation')),
    ('mask-missing', change_first(segmentation=[])),
    ('unknown-category', change_first(category_id=99)),
    (
        'unknown-image',
        lambda content: content['annotations'].append(
            dict(content['annotations'][0], id=10**6, image_id=99)
        ),
    ),
    ('duplicate-annotation-id', same_id('annotations')),
    ('duplicate-file', lambda content: content['images'].append(dict(content['images'][0], id=99))),
    ('image-without-objects', drop_objects_of_first),
    ('no-objects', lambda content: content.update(annotations=[])),
    ('class-missing', lambda content: content['categories'][1].update(name='cube')),
    ('class-order', lambda content: content['categories'].reverse()),
    (
        'class-twice',
        lambda content: content['categories'].append(dict(content['categories'][0], id=9)),
    ),
]


# What cannot but come along
IMPLIED = {
    'duplicate-file': 'image-without-objects',
    'no-objects': 'image-without-objects',
    'class-missing': 'unused-category',
}


@pytest.mark.parametrize('kind, change', COCO)
def test_annotations(copy, kind, change):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        change(content)
    found = check_coco(path)[1]
    assert set(kinds(found)) - {IMPLIED.get(kind)} == {kind}
    assert {problem.file for problem in found} == {str(path)}
    if kind.startswith(('box', 'mask', 'polygon', 'area')):
        (problem,) = found
        assert problem.detail.startswith('annotation 1 of 000000.jpg: ')


def test_whole_numbers_may_be_written_as_fractions(copy):
    """As some programs do; mmdet and pycocotools take 640.0 for 640."""
    root = copy('coco')
    for split in ('train', 'val'):
        path = root / 'annotations' / f'instances_{split}.json'
        with annotations(path) as content:
            for part in content.values():
                for entry in part:
                    entry.update(
                        {
                            key: float(entry[key])
                            for key in ('id', 'image_id', 'category_id', 'width', 'height')
                            if key in entry
                        }
                    )
    cfg = config('mask_rcnn_biformer', root)
    assert problems(cfg) == []
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    guard_data(dataset, cfg)
    assert all(len(x['data_samples'].gt_instances) for x in dataset)


@pytest.mark.parametrize(
    'part, fields, said',
    [
        ('images', dict(width=64.5), 'a width in whole pixels; it has width=64.5'),
        ('images', dict(id=1.5), 'an id, a whole number or a text; it has id=1.5'),
        ('annotations', dict(id=NAN), 'an id, a whole number or a text; it has id=nan'),
        (
            'annotations',
            dict(category_id=[1]),
            "a category_id, a category's id; it has category_id=[1]",
        ),
    ],
)
def test_what_a_field_must_be_is_said(copy, part, fields, said):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        content[part][0].update(fields)
    (problem,) = check_coco(path)[1]
    assert problem.kind == 'field'
    assert problem.detail == f'{part}[0] must have {said}'


def test_masks_matter_only_where_they_are_trained_on(copy):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        drop_first('segmentation')(content)
    assert check_coco(path, with_masks=False)[1] == []


def test_images_of_one_id(copy):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        same_id('images')(content)
    # The second's objects have lost their image.
    assert set(kinds(check_coco(path)[1])) == {'duplicate-image-id', 'unlisted-images'}


@pytest.mark.parametrize('text', ['', '{"images": [', 'PK\x03\x04', '[]'])
def test_unreadable_annotations(tmp_path, text):
    path = tmp_path / 'a.json'
    path.write_text(text)
    items, (problem,) = check_coco(path)
    assert items == []
    assert problem.kind == ('field' if text == '[]' else 'json')
    assert problem.file == str(path)
