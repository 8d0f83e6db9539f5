"""What is collected of data sets that are built, whole or lazily."""

import json
import sys

import pytest
from data_checks import config
from mmengine.registry import DATASETS, init_default_scope

from biformer_mm.datasets.checks.facts import facts_of, seeing_annotations

SHAPES = ('circle', 'square', 'triangle', 'star')


def build(cfg, split, **changes):
    init_default_scope(cfg.default_scope)
    dataset = cfg[f'{split}_dataloader'].dataset
    return DATASETS.build({**dataset, 'pipeline': [], **changes})


def seen(cfg, split, **changes):
    files = []
    with seeing_annotations(lambda *file: files.append(file)):
        dataset = build(cfg, split, **changes)
    return dataset, files


@pytest.fixture
def coco(copy):
    root = copy('coco')
    return config('retinanet_biformer', root), root / 'annotations'


def test_annotations_are_seen_once_and_unchanged(coco):
    from mmdet.datasets import CocoDataset

    before = CocoDataset.COCOAPI
    files = []
    with seeing_annotations(lambda path, content: files.append((path, json.dumps(content)))):
        build(coco[0], 'val')
    path = coco[1] / 'instances_val.json'
    assert files == [(str(path), json.dumps(json.loads(path.read_text())))]
    assert CocoDataset.COCOAPI is before


def test_the_reader_comes_back_after_an_error(coco):
    from mmdet.datasets import CocoDataset

    before = CocoDataset.COCOAPI
    with pytest.raises(FileNotFoundError):
        seen(coco[0], 'val', ann_file='none.json')
    assert CocoDataset.COCOAPI is before


def test_two_may_look_at_once(coco):
    outer, inner = [], []
    with seeing_annotations(lambda path, _: outer.append(path)):
        with seeing_annotations(lambda path, _: inner.append(path)):
            build(coco[0], 'val')
        build(coco[0], 'train')
    assert inner == outer[:1]
    assert len(outer) == 2


def test_data_sets_with_an_api_of_their_own_are_not_seen(coco):
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.api_wrappers import COCO

    class Own(CocoDataset):
        COCOAPI = COCO

    _, files = seen(coco[0], 'val', type=Own)
    assert files == []


def test_without_mmdet_nothing_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmdet')
    with seeing_annotations(print):
        assert 'mmdet' not in sys.modules


def test_facts_of_coco(coco):
    path = coco[1] / 'instances_val.json'
    content = json.loads(path.read_text())
    content['categories'].reverse()
    content['categories'].insert(1, dict(id=99, name='none of them'))
    path.write_text(json.dumps(content))
    for lazy in (False, True):
        dataset = build(coco[0], 'val', lazy_init=lazy)
        facts = facts_of('val_dataloader.dataset', dataset, content)
        assert facts.base == facts.type_name == 'CocoDataset'
        assert facts.source == str(path)
        assert facts.classes == SHAPES
        assert (facts.numbering, facts.numbered_by) == (SHAPES[::-1], 'categories')
        assert facts.images == {image['id']: image['file_name'] for image in content['images']}
        assert facts.image_ids == tuple(facts.images)


def test_image_ids_are_those_that_are_left(coco):
    content = json.loads((coco[1] / 'instances_val.json').read_text())
    dataset = build(coco[0], 'val', indices=[1])
    facts = facts_of('val_dataloader.dataset', dataset, content)
    assert facts.image_ids == (content['images'][1]['id'],)
    assert len(facts.images) == 2
    training = facts_of('train_dataloader.dataset', dataset, content)
    assert training.images is training.image_ids is None
    assert training.numbering == SHAPES


def test_without_its_content_a_file_has_no_numbering(coco):
    facts = facts_of('val_dataloader.dataset', build(coco[0], 'val'))
    assert facts.numbering is facts.images is None


def test_classes_that_are_a_prompt_are_not_compared(coco):
    dataset = build(coco[0], 'val', return_classes=True)
    assert facts_of('val_dataloader.dataset', dataset).classes is None


def test_facts_of_segmentation(copy):
    cfg = config('semantic_fpn_biformer', copy('ade20k'))
    dataset = build(cfg, 'val')
    facts = facts_of('val_dataloader.dataset', dataset)
    assert facts.base == 'BaseSegDataset'
    assert facts.reduce_zero_label is dataset.reduce_zero_label
    assert facts.classes == tuple(dataset.metainfo['classes'])
    assert facts.numbering is None


@pytest.mark.parametrize('lazy', [True, False])
def test_facts_of_class_folders(copy, lazy):
    root = copy('imagenet')
    (root / 'val' / 'square').mkdir(exist_ok=True)
    (root / 'val' / '.hidden').mkdir()
    cfg = config('biformer', root)
    dataset = build(cfg, 'val', lazy_init=lazy)
    facts = facts_of('val_dataloader.dataset', dataset)
    assert facts.base == 'CustomDataset'
    # They get the first label; another rule says so.
    assert facts.numbering == ('.hidden', *sorted(path.name for path in root.glob('val/[a-z]*')))
    assert facts.numbered_by == 'folders'
    if not lazy:
        assert dataset.folder_to_idx == {name: i for i, name in enumerate(facts.numbering)}


def test_lists_and_pictures_without_labels_number_nothing(copy):
    root = copy('imagenet')
    (root / 'list.txt').write_text('')
    cfg = config('biformer', root)
    for changes in (dict(ann_file='list.txt'), dict(with_label=False), dict(data_prefix='none')):
        facts = facts_of('x', build(cfg, 'val', lazy_init=True, **changes))
        assert facts.numbering is facts.numbered_by is None


def test_other_ways_of_loading_are_unknown(coco):
    from mmdet.datasets import CocoDataset

    class Other(CocoDataset):
        def load_data_list(self):
            return []

    assert facts_of('x', build(coco[0], 'val', type=Other, lazy_init=True)) is None
    assert facts_of('x', object()) is None
