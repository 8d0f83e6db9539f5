import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from rule_checks import CLASSIFIER, DETECTOR, LABELS, MASKS, SEGMENTOR, assert_one_line, problems

ONE_CLASS = {
    f'{split}_dataloader.dataset.metainfo': dict(classes=('shape',)) for split in ('train', 'val')
}
BINARY = {
    f'{split}_dataloader.dataset.metainfo': dict(classes=('background', 'shape'))
    for split in ('train', 'val')
}
HEADS = ('decode_head', 'auxiliary_head')


def _heads(**settings):
    return {f'model.{head}.{key}': v for head in HEADS for key, v in settings.items()}


def _constant(name, changes):
    return {p.file for p in problems(name, changes) if p.kind == 'constant-loss'}


@pytest.mark.parametrize(
    ('name', 'loss'),
    [
        (CLASSIFIER, dict(type='CrossEntropyLoss')),
        (CLASSIFIER, dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
        (LABELS, dict(type='CrossEntropyLoss')),
    ],
)
def test_a_classifier_with_one_output_is_found(name, loss):
    changes = {'model.head.num_classes': 1, 'model.head.loss': loss}
    assert _constant(name, changes) == {'model.head.num_classes'}


@pytest.mark.parametrize(
    'head',
    [
        dict(num_classes=1, loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
        dict(type='MultiLabelLinearClsHead', num_classes=1),
        dict(num_classes=2),
    ],
)
def test_other_classifiers_are_allowed(head):
    assert not _constant(CLASSIFIER, {'model.head': head})


def test_softmax_over_one_channel_of_a_segmentor_is_found():
    changes = _heads(num_classes=2, out_channels=1)
    found = problems(SEGMENTOR, {**BINARY, **changes})
    assert {p.file for p in found} == {f'model.{head}.loss_decode' for head in HEADS}
    for problem in found:
        assert problem.kind == 'constant-loss'
        assert_one_line(problem)


def test_a_segmentor_of_one_class_is_found():
    changes = _heads(num_classes=1, **{'loss_decode.use_sigmoid': True})
    expected = {f'model.{head}.num_classes' for head in HEADS}
    assert _constant(SEGMENTOR, {**ONE_CLASS, **changes}) == expected


@pytest.mark.parametrize('classes', [1, 2])
def test_one_channel_with_a_sigmoid_is_allowed(classes):
    # num_classes=1 with two classes of the data trains and scores, too.
    changes = _heads(
        num_classes=classes, out_channels=1, threshold=0.5, **{'loss_decode.use_sigmoid': True}
    )
    assert not problems(SEGMENTOR, {**BINARY, **changes})


@pytest.mark.parametrize('name', [DETECTOR, MASKS])
def test_detectors_of_one_class_are_allowed(name):
    heads = {'model.bbox_head.num_classes': 1}
    if name == MASKS:
        heads = {f'model.roi_head.{part}_head.num_classes': 1 for part in ('bbox', 'mask')}
    assert not problems(name, {**ONE_CLASS, **heads})


def test_losses_that_are_all_weighted_by_0_are_found():
    changes = _heads(**{'loss_decode.loss_weight': 0.0})
    assert _constant(SEGMENTOR, changes) == {'model.decode_head.loss_decode.loss_weight'}
    del changes['model.decode_head.loss_decode.loss_weight']  # an auxiliary head, switched off
    assert not problems(SEGMENTOR, changes)


def test_class_weights_that_are_all_0_are_found():
    key = 'model.decode_head.loss_decode.class_weight'
    assert _constant(SEGMENTOR, {key: [0.0] * 5}) == {key}
    assert not problems(SEGMENTOR, {key: [0.0, 1.0, 1.0, 1.0, 1.0]})


def test_a_rate_of_0_is_found():
    changes = {'optim_wrapper.optimizer.lr': 0}
    [problem] = problems(CLASSIFIER, changes)
    assert (problem.kind, problem.file) == ('idle-optimizer', 'optim_wrapper.optimizer.lr')
    assert_one_line(problem)
    assert not problems(CLASSIFIER, changes, splits=['test'])


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='CrossEntropyLoss'),
        dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=1),
        dict(type='SeesawLoss', num_classes=1),
    ],
)
def test_softmax_over_one_output_has_no_gradient(loss):
    """What the rule on one output rests on."""
    init_default_scope('mmpretrain')
    scores = torch.randn(3, 1, requires_grad=True)
    value = MODELS.build(loss)(scores, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert value.item() == 0 and not scores.grad.any()
