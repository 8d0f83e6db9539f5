import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, init_default_scope
from rule_checks import SEGMENTOR, assert_one_line, problems

TRAIN, VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'


def test_data_set_and_pipeline_must_agree_on_the_label_0():
    key = f'{TRAIN}.pipeline.1.reduce_zero_label'
    [problem] = problems(SEGMENTOR, {key: False})
    assert (problem.kind, problem.file) == ('reduce-zero-label', key)
    assert_one_line(problem)


def test_splits_must_agree_on_the_label_0():
    changes = {f'{VAL}.reduce_zero_label': False, f'{VAL}.pipeline.2.reduce_zero_label': None}
    [problem] = problems(SEGMENTOR, changes)
    assert (problem.kind, problem.file) == ('reduce-zero-label', f'{VAL}.reduce_zero_label')


def test_the_default_of_the_type_counts():
    # ADE20KDataset reduces the label 0; BaseSegDataset does not, so here its steps disagree.
    steps = {
        f'{TRAIN}.pipeline.1.reduce_zero_label': None,
        f'{VAL}.pipeline.2.reduce_zero_label': None,
    }
    changes = {f'{key}.type': 'ADE20KDataset' for key in (TRAIN, VAL)}
    assert not problems(SEGMENTOR, {**changes, **steps})
    data = problems(SEGMENTOR, {**changes, **steps, f'{VAL}.reduce_zero_label': False})
    assert [problem.kind for problem in data] == ['reduce-zero-label']


def test_data_sets_of_other_types_may_number_otherwise():
    changes = {
        f'{VAL}.type': 'CityscapesDataset',
        f'{VAL}.reduce_zero_label': False,
        f'{VAL}.pipeline.2.reduce_zero_label': None,
    }
    assert not problems(SEGMENTOR, changes)


@pytest.mark.parametrize(('learnt', 'text'), [(0, 'never learnt'), (254, 'count as wrong')])
def test_a_head_that_ignores_another_label_than_the_metric_is_found(learnt, text):
    changes = {f'model.{head}.ignore_index': learnt for head in ('decode_head', 'auxiliary_head')}
    for problem in problems(SEGMENTOR, changes):
        assert problem.kind == 'ignore-index' and text in problem.detail
        assert problem.file in changes
        assert_one_line(problem)
    assert len(problems(SEGMENTOR, changes)) == 2


@pytest.mark.parametrize(
    'changes',
    [
        # as in mmseg's configs for HSI-Drive
        {
            'model.decode_head.ignore_index': 0,
            'model.auxiliary_head.ignore_index': 0,
            'val_evaluator.ignore_index': 0,
        },
        {'val_evaluator.ignore_index': 0},  # a background that is learnt and not scored
        {'model.auxiliary_head.type': 'STDCHead', 'model.auxiliary_head.ignore_index': 0},
    ],
)
def test_what_agrees_is_allowed(changes):
    assert not problems(SEGMENTOR, changes)


def test_a_label_that_only_the_head_ignores_counts_as_missed():
    """What the rule on ignored labels rests on: here every learnt pixel is right."""
    init_default_scope('mmseg')
    metric = METRICS.build(dict(type='IoUMetric', iou_metrics=['mIoU']))
    metric.dataset_meta = dict(classes=('background', 'shape'))
    truth = torch.tensor([[0, 0, 1, 1]])
    sample = dict(gt_sem_seg=dict(data=truth), pred_sem_seg=dict(data=torch.ones_like(truth)))
    metric.process({}, [sample])
    assert np.isclose(metric.compute_metrics(metric.results)['mIoU'], 25)  # of 0 and 50
