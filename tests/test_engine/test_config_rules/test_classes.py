import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from rule_checks import CLASSIFIER, DETECTOR, LABELS, MASKS, SEGMENTOR, assert_one_line, problems

NAMES = ('circle', 'square', 'triangle', 'star')


@pytest.mark.parametrize(
    ('name', 'changes', 'kind', 'key'),
    [
        # heads and data
        (DETECTOR, {'bbox_head.num_classes': 3}, 'head-classes', 'bbox_head.num_classes'),
        (DETECTOR, {'bbox_head.num_classes': 80}, 'spare-outputs', 'bbox_head.num_classes'),
        (
            MASKS,
            {'roi_head.mask_head.num_classes': 3},
            'head-classes',
            'roi_head.mask_head.num_classes',
        ),
        (SEGMENTOR, {'decode_head.num_classes': 4}, 'head-classes', 'decode_head.num_classes'),
        (
            SEGMENTOR,
            {'auxiliary_head.num_classes': 4},
            'head-classes',
            'auxiliary_head.num_classes',
        ),
        # weights and soft labels
        (
            SEGMENTOR,
            {'decode_head.loss_decode.class_weight': [1.0] * 4},
            'class-weights',
            'decode_head.loss_decode.class_weight',
        ),
        (
            LABELS,
            {'head.loss': dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=3)},
            'preprocessor-classes',
            'head.loss.num_classes',
        ),
    ],
)
def test_a_model_that_does_not_fit_the_classes_is_found(name, changes, kind, key):
    [problem] = problems(name, {f'model.{k}': v for k, v in changes.items()})
    assert (problem.kind, problem.file) == (kind, f'model.{key}')
    assert_one_line(problem)


def test_the_message_names_both_places_and_values():
    [problem] = problems(DETECTOR, {'model.bbox_head.num_classes': 3})
    assert problem.detail.startswith('3, but train_dataloader.dataset has 4 classes')
    assert problem.detail.endswith('set model.bbox_head.num_classes=4')


def test_stages_of_a_cascade_must_agree():
    heads = [dict(type='Shared2FCBBoxHead', num_classes=n) for n in (4, 4, 5)]
    changes = {'model.roi_head.bbox_head': heads}
    found = {(p.kind, p.file) for p in problems(MASKS, changes)}
    assert ('head-classes', 'model.roi_head.bbox_head.2.num_classes') in found


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        (SEGMENTOR, {'decode_head.loss_decode.class_weight': [1.0] * 5}),
        (SEGMENTOR, {'decode_head.loss_decode.class_weight': [1.0] * 5 + [0.1]}),
        # edges, which have labels of their own
        (SEGMENTOR, {'auxiliary_head.type': 'STDCHead', 'auxiliary_head.num_classes': 2}),
        # labels of a list or of folders may use fewer classes than the type names
        (CLASSIFIER, {}),
        (MASKS, {'roi_head.mask_head.class_agnostic': True, 'roi_head.mask_head.num_classes': 1}),
    ],
)
def test_what_fits_is_allowed(name, changes):
    assert not problems(name, {f'model.{k}': v for k, v in changes.items()})


def test_the_heads_of_a_panoptic_model_share_the_classes_out():
    changes = {}
    for split in ('train', 'val'):
        changes[f'{split}_dataloader.dataset.type'] = 'CocoPanopticDataset'
        changes[f'{split}_dataloader.dataset.metainfo'] = None
    assert not problems(MASKS, changes)


def test_a_classifier_of_some_of_imagenets_classes_is_allowed():
    changes = {f'{split}_dataloader.dataset.type': 'ImageNet' for split in ('train', 'val')}
    assert not problems(CLASSIFIER, changes)


def test_the_width_of_soft_labels_counts_only_where_labels_become_soft():
    changes = {'data_preprocessor.num_classes': 10}
    assert not problems(CLASSIFIER, changes)
    changes['model.train_cfg'] = dict(augments=dict(type='Mixup', alpha=0.8))
    assert [(p.kind, p.file) for p in problems(CLASSIFIER, changes)] == [
        ('preprocessor-classes', 'data_preprocessor.num_classes')
    ]


def test_token_labels_must_have_the_width_of_the_head():
    key = 'train_dataloader.dataset.pipeline.2.num_classes'
    assert [(p.kind, p.file) for p in problems(LABELS, {key: 5})] == [('preprocessor-classes', key)]


@pytest.mark.parametrize(
    ('classes', 'text'),
    [
        (NAMES[::-1], "class 0 is 'star', but it is 'circle'"),
        (NAMES[:3], '3 classes, but there are 4'),
    ],
)
def test_splits_must_have_the_same_classes_in_the_same_order(classes, text):
    key = 'val_dataloader.dataset.metainfo.classes'
    [problem] = problems(DETECTOR, {key: classes})
    assert (problem.kind, problem.file) == ('split-classes', key)
    assert text in problem.detail


def test_classes_of_a_file_are_read(tmp_path):
    file = tmp_path / 'classes.txt'
    file.write_text('\n'.join(NAMES))
    assert not problems(DETECTOR, {'val_dataloader.dataset.metainfo.classes': str(file)})
    file.write_text('\n'.join(NAMES[::-1]))
    assert problems(DETECTOR, {'val_dataloader.dataset.metainfo.classes': str(file)})


def test_the_classes_of_a_type_count_where_the_config_names_none():
    metainfo = {f'{split}_dataloader.dataset.metainfo': None for split in ('train', 'val')}
    [problem] = problems(DETECTOR, metainfo)  # COCO's 80 classes
    assert problem.detail.startswith('4, but train_dataloader.dataset has 80 classes')


@pytest.mark.parametrize('length', [4, 7])
def test_other_numbers_of_class_weights_fail(length):
    """What the rule on class weights rests on."""
    init_default_scope('mmseg')
    loss = MODELS.build(dict(type='CrossEntropyLoss', class_weight=[1.0] * length))
    with pytest.raises(RuntimeError, match='weight'):
        loss(torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
