"""Comparing splits, evaluators and checkpoints: what is refused, and what must not be."""

import json

import pytest

from biformer_mm.datasets.checks.agreement import (
    compare_checkpoint,
    compare_evaluator,
    compare_splits,
)
from biformer_mm.datasets.checks.facts import SplitFacts

ABC = ('a', 'b', 'c')


def facts(split, base, classes=None, **fields):
    option = f'{split}_dataloader.dataset'
    fields.setdefault('type_name', base)
    return SplitFacts(option=option, base=base, source=f'data/{split}', classes=classes, **fields)


def coco(split, classes=ABC, numbering=None, names=None, **fields):
    """Facts of a COCO file; `names` are its file names by image id."""
    numbering = classes if numbering is None else numbering
    if names is not None:
        fields = {'images': names, 'image_ids': tuple(names), **fields}
    return facts(
        split, 'CocoDataset', classes, numbering=numbering, numbered_by='categories', **fields
    )


def folders(split, *names, classes=None):
    return facts(split, 'CustomDataset', classes or names, numbering=names, numbered_by='folders')


def listed(split, classes):
    return facts(split, 'CustomDataset', classes)


def maps(split, classes=ABC, reduce=False, kind='CustomSegDataset'):
    return facts(split, 'BaseSegDataset', classes, reduce_zero_label=reduce, type_name=kind)


def splits(*all_facts):
    return {problem.kind: problem for problem in compare_splits(all_facts)}


DIFFERENT = [
    ('split-classes', coco('train'), coco('val', ('a', 'c', 'b')), 'c has label 1 in'),
    ('split-classes', coco('train'), coco('val', ('a', 'b')), 'only in'),
    (
        'split-classes',
        maps('train'),
        maps('val', ('a', 'b', 'd')),
        'only in val_dataloader.dataset: d',
    ),
    ('split-classes', listed('train', ABC), listed('val', ('b', 'a', 'c')), 'has label'),
    ('split-classes', listed('train', ABC), listed('val', ('a', 'b')), '2 in'),
    ('category-order', coco('train'), coco('val', numbering=('b', 'a', 'c')), 'b has label 0 in'),
    ('split-folders', folders('train', *ABC), folders('val', *ABC, 'd'), 'only here: d'),
    ('split-folders', folders('train', *ABC), folders('val', 'b', 'c'), 'b has label 0 here'),
    (
        'split-folders',
        folders('train', 'cat', 'red_dog'),
        folders('val', 'Red dog', 'cat'),
        'one class',
    ),
    ('split-folders', folders('train', *ABC), folders('val', '.x', *ABC), 'only here: .x'),
    ('reduce-zero-label', maps('train'), maps('val', reduce=True), 'differ by one'),
]


@pytest.mark.parametrize('kind, train, other, said', DIFFERENT)
def test_labels_that_mean_other_classes_are_refused(kind, train, other, said):
    found = splits(train, other)
    assert list(found) == [kind]
    assert found[kind].severity == 'error'
    place = found[kind].file
    assert place in (other.source, *(f'{other.option}.{key}' for key in FIELDS))
    assert said in found[kind].detail
    assert train.option in found[kind].detail or train.source in found[kind].detail


FIELDS = 'metainfo.classes', 'reduce_zero_label'

AGREEING = [
    (coco('train'), coco('val'), coco('test')),
    (coco('train', ABC, ('c', 'a', 'b')), coco('val', ABC, ('c', 'a', 'b'))),
    (coco('train'), coco('val', None)),  # a prompt
    (folders('train', *ABC), folders('val', *ABC), folders('test', *ABC)),
    (folders('train', 'n01', 'n02', classes=('cat', 'dog')), listed('val', ('cat', 'dog'))),
    (folders('train', 'n01', 'n02'), listed('val', ('cat', 'dog'))),  # the list gives the labels
    (listed('train', ABC), listed('val', ('A', 'B', 'C'))),  # only shown
    (listed('train', None), listed('val', None)),
    (maps('train', reduce=True), maps('val', reduce=True)),
    (maps('train', reduce=True, kind='ADE20KDataset'), maps('val', kind='Own')),
    (coco('val'), coco('test', ('d', 'e'))),  # nothing is trained
]


@pytest.mark.parametrize('all_facts', AGREEING)
def test_splits_that_agree_are_silent(all_facts):
    assert splits(*all_facts) == {}


def test_each_part_of_each_split_is_compared():
    other = coco('val', numbering=('b', 'a', 'c'))
    wrapped = other._replace(option='val_dataloader.dataset.datasets.1', source='data/b')
    found = list(compare_splits([coco('val'), wrapped, coco('train'), coco('test')]))
    assert [problem.file for problem in found] == ['data/b']
    second = other._replace(option='train_dataloader.dataset.datasets.1')
    found = list(compare_splits([coco('train'), second]))
    assert [problem.kind for problem in found] == ['category-order']


def test_last_folders_may_be_missing():
    found = splits(folders('train', *ABC), folders('val', 'a', 'b'))
    assert list(found) == ['absent-class']
    assert found['absent-class'].severity == 'warning'
    assert found['absent-class'].detail == 'has no folder of c'


# Evaluators


@pytest.fixture
def metric(tmp_path):
    """Make the evaluator of a file of images and categories."""
    from mmdet.evaluation import CocoMetric

    def make(names, categories=ABC, boxes=(), **fields):
        content = dict(
            images=[dict(id=key, file_name=name) for key, name in names.items()],
            annotations=[
                dict(id=number, image_id=image, category_id=0, bbox=box, area=1, iscrowd=0)
                for number, (image, *box) in enumerate(boxes, 1)
            ],
            categories=[dict(id=i, name=name) for i, name in enumerate(categories)],
        )
        path = tmp_path / 'evaluator.json'
        path.write_text(json.dumps(content))
        return CocoMetric(str(path), **fields)

    return make


NAMES = {i: f'{i}.jpg' for i in range(5)}


def evaluator(metric, *all_facts, ann_file='B.json'):
    return list(compare_evaluator(all_facts, 'val_evaluator', metric, ann_file))


@pytest.mark.parametrize(
    'names, categories, said',
    [
        ({**NAMES, 5: '5.jpg', 6: '6.jpg'}, ABC, '2 of 7 images are only in it'),
        ({0: '0.jpg'}, ABC, '4 images of the data set are not in it'),
        ({i + 5: f'{i}.jpg' for i in range(5)}, ABC, '5 images of the data set are not in it'),
        ({i: f'other_{i}.jpg' for i in range(5)}, ABC, 'image 0 is other_0.jpg in it, and 0.jpg'),
        (NAMES, ('b', 'a', 'c'), 'number other classes: b has label 0 in it and 1'),
        (NAMES, ('a', 'c'), 'number other classes: 2 in it, 3 in the data set; only'),
    ],
)
def test_an_evaluator_of_another_file_is_refused(metric, names, categories, said):
    (problem,) = evaluator(metric(names, categories), coco('val', names=NAMES))
    assert problem.kind == 'evaluator-file'
    assert problem.file == 'val_evaluator.ann_file'
    assert problem.detail.startswith(
        'is B.json, and must be the file of its data set, val_dataloader.dataset.ann_file=data/val:'
    )
    assert said in problem.detail


def test_an_evaluator_of_a_copy_is_right(metric):
    copy = metric(NAMES, ('none', *ABC))
    assert evaluator(copy, coco('val', names=NAMES)) == []
    # Names depend on the folder that they are joined to.
    assert evaluator(copy, coco('val', names={i: f'val/{i}.jpg' for i in range(5)})) == []
    subset = coco('val', names=NAMES, image_ids=(3, 1))
    assert evaluator(copy, subset) == []  # repair() counts only these


def test_results_that_are_only_saved_need_the_categories(metric, tmp_path):
    saved = dict(format_only=True, outfile_prefix=str(tmp_path / 'x'))
    assert evaluator(metric({}, **saved), coco('test', names=NAMES)) == []
    assert evaluator(metric({}, ('c', 'b', 'a'), **saved), coco('test', names=NAMES)) != []


def test_an_evaluator_of_other_images_with_the_same_ids_and_names_is_refused(metric):
    def boxes(shift):
        return frozenset((image, shift, 2, 10, 10) for image in NAMES)

    fact = coco('val', names=NAMES, boxes=boxes(0))
    (problem,) = evaluator(metric(NAMES, boxes=boxes(5)), fact)
    assert '0 of 5 boxes are in both, so its images are others' in problem.detail
    # Corrected annotations, and those of a test set, which only the evaluator has.
    corrected = [*sorted(boxes(5))[:4], (4, 0, 2, 10, 10)]
    assert evaluator(metric(NAMES, boxes=corrected), fact) == []
    unknown = coco('val', names=NAMES, boxes=frozenset())
    assert evaluator(metric(NAMES, boxes=boxes(5)), unknown) == []


def test_several_data_sets_of_one_evaluator(metric):
    first = coco('val', names={i: f'{i}.jpg' for i in range(3)})
    second = coco('val', names={i: f'{i}.jpg' for i in range(3, 5)})
    second = second._replace(option='val_dataloader.dataset.datasets.1')
    assert evaluator(metric(NAMES), first, second) == []
    same = second._replace(images=first.images, image_ids=first.image_ids)
    (problem,) = evaluator(metric(NAMES), first, same)
    assert '3 are in more than one of val_dataloader.dataset.ann_file=data/val' in problem.detail
    # Also where the evaluator makes its file of the data sets.
    from mmdet.evaluation import CocoMetric

    assert evaluator(CocoMetric(), first, same) != []
    assert evaluator(CocoMetric(), first, second) == []


def test_what_cannot_be_compared_is_passed_over(metric):
    assert evaluator(object(), coco('val', names=NAMES)) == []
    assert evaluator(metric({}), coco('val')) == []
    assert evaluator(metric({})) == []


# Checkpoints


def checkpoint(fact, *classes, **meta):
    meta = dict(meta, classes=classes) if classes else meta
    return [
        (problem.kind, problem.detail)
        for problem in compare_checkpoint([fact], 'epoch_1.pth', meta)
    ]


@pytest.mark.parametrize(
    'fact, classes, said',
    [
        (coco('test'), ('a', 'c', 'b'), 'b has label 1 in test_dataloader.dataset and 2 in the'),
        (coco('test'), ('a', 'b'), '3 in test_dataloader.dataset, 2 in the checkpoint'),
        (coco('test'), (*ABC, 'd'), 'only in the checkpoint: d'),
        (coco('test'), ('b', 'x', 'y'), 'b has label 1'),
        (folders('test', '.x', 'a', 'b'), ABC, 'only in test_dataloader.dataset: .x'),
        (folders('test', '.x', 'a', 'b')._replace(classes=None), ABC, 'a has label 1'),
        (folders('test', *ABC, 'd'), ABC, '4 in test_dataloader.dataset'),
        (maps('test'), ('c', 'b', 'a'), 'a has label 0'),
    ],
)
def test_a_checkpoint_of_other_classes_is_refused(fact, classes, said):
    ((kind, detail),) = checkpoint(fact, *classes)
    assert kind == 'checkpoint-classes'
    assert said in detail


def test_other_names_of_a_checkpoint_are_warned_of():
    ((kind, detail),) = checkpoint(listed('test', ('n01', 'n02')), 'cat', 'dog')
    assert kind == 'checkpoint-names'
    assert 'only in the checkpoint: cat, dog' in detail


def test_checkpoints_that_fit_are_silent():
    assert checkpoint(coco('test'), *ABC) == []
    assert checkpoint(coco('test'), 'A', 'b, bee', 'c ') == []
    assert checkpoint(coco('test')) == []
    assert checkpoint(listed('test', None), *ABC) == []
    assert checkpoint(coco('test', None, ('c', 'a')), *ABC) == []  # a prompt
    assert checkpoint(folders('test', 'a', 'b'), *ABC) == []  # the last has no picture
    assert list(compare_checkpoint([coco('test')], 'epoch_1.pth', None)) == []


def test_reduce_zero_label_of_a_checkpoint():
    ((kind, detail),) = checkpoint(maps('test'), *ABC, reduce_zero_label=True)
    assert kind == 'reduce-zero-label'
    assert detail.endswith('set it to True')
    assert checkpoint(maps('test', reduce=True), *ABC, reduce_zero_label=True) == []
    assert checkpoint(coco('test'), *ABC, reduce_zero_label=True) == []


@pytest.mark.parametrize('names', ['IMAGENET_CATEGORIES', 'IMAGENET_SIMPLE_CATEGORIES'])
def test_names_of_imagenet_by_other_sources_are_no_error(names):
    from mmpretrain.datasets import categories

    fact = listed('test', tuple(categories.IMAGENET_CATEGORIES))
    kinds = [kind for kind, _ in checkpoint(fact, *getattr(categories, names))]
    assert kinds == ([] if names == 'IMAGENET_CATEGORIES' else ['checkpoint-names'])
