"""Evaluations of the training's data, or at other sizes."""

import copy

import pytest
from rule_checks import CLASSIFIER, DETECTOR, SEGMENTOR, assert_one_line, found, load, problems

from biformer_mm.engine.config_rules.splits import check_same_data, check_scales


def of(cfg, rule, splits=('train', 'val')):
    return [problem.file for problem in rule(cfg, splits)]


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTOR, CLASSIFIER])
def test_an_evaluation_of_the_training_data(name):
    cfg = load(name)
    fields = {k: v for k, v in cfg.train_dataloader.dataset.items() if k != 'pipeline'}
    cfg.val_dataloader.dataset.update(copy.deepcopy(fields))
    assert of(cfg, check_same_data) == ['val_dataloader.dataset']
    assert of(cfg, check_same_data, ['val']) == of(cfg, check_same_data, ['test']) == []
    for problem in check_same_data(cfg, ['train', 'val']):
        assert problem.kind == 'same-data' and problem.severity == 'warning'
        assert_one_line(problem)
    # In a wrapper, and written otherwise.
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=cfg.train_dataloader.dataset)
    cfg.val_dataloader.dataset.type = f'{cfg.default_scope}.{cfg.val_dataloader.dataset.type}'
    assert of(cfg, check_same_data) == ['val_dataloader.dataset']


def test_paths_are_compared_as_data_sets_join_them():
    cfg = load(DETECTOR)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    val.update(data_root='', ann_file=f'{train.data_root}/./{train.ann_file}')
    val.data_prefix = train.data_prefix
    assert of(cfg, check_same_data) == ['val_dataloader.dataset']
    val.ann_file = val.ann_file.replace('train', 'other')
    assert of(cfg, check_same_data) == []


def test_parts_of_one_file_are_other_data():
    cfg = load(CLASSIFIER)
    data = dict(type='CustomDataset', data_root='data', ann_file='all.txt')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset = dict(type='KFoldDataset', dataset=data, fold=0)
    assert of(cfg, check_same_data) == []
    cfg.train_dataloader.dataset = dict(data, indices=[1, 2])
    cfg.val_dataloader.dataset = dict(data, indices=[3, 4])
    assert of(cfg, check_same_data) == []
    # Some hundred images of the training are the training's.
    cfg.train_dataloader.dataset, cfg.val_dataloader.dataset = data, dict(data, indices=100)
    assert of(cfg, check_same_data) == ['val_dataloader.dataset']
    for field in ('split', 'img_suffix'):  # other arguments may choose
        cfg.val_dataloader.dataset = dict(data, **{field: 'val'})
        assert of(cfg, check_same_data) == []
    for fields in (dict(), dict(data_prefix='raw')):  # some choose by test_mode
        for split in ('train', 'val'):
            data = dict(type='MNIST', data_root='data', test_mode=split == 'val', **fields)
            cfg[f'{split}_dataloader'].dataset = data
        assert of(cfg, check_same_data) == []


def resized(train, val):
    return dict(
        train_dataloader=dict(dataset=dict(type='A', pipeline=train)),
        val_dataloader=dict(dataset=dict(type='B', pipeline=val)),
    )


def step(*scale, **fields):
    return dict(type='Resize', scale=scale, **dict(dict(keep_ratio=True), **fields))


RATIOS = dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True)


@pytest.mark.parametrize(
    'train, val, times',
    [
        ([step(320, 320)], [step(1333, 800)], '3.3'),
        ([step(1333, 800)], [step(320, 320)], '0.3'),
        ([step(512, 512, keep_ratio=False)], [step(1024, 1024, keep_ratio=False)], '2'),
        ([RATIOS], [step(4096, 2048)], '2'),
        ([RATIOS], [step(200, 100)], '0.39'),
    ],
)
def test_other_scales(train, val, times):
    (problem,) = check_scales(resized(train, val), ['train', 'val'])
    assert (problem.kind, problem.severity) == ('other-scale', 'warning')
    assert problem.file == 'val_dataloader.dataset.pipeline'
    assert f'resized to {times} times that of train_dataloader.dataset.pipeline' in problem.detail
    assert_one_line(problem)


@pytest.mark.parametrize(
    'train, val',
    [
        ([step(1333, 800)], [step(1333, 800)]),
        ([step(640, 640)], [step(1000, 600)]),
        ([RATIOS], [step(2048, 512)]),
        ([RATIOS], [step(2048, 1024)]),
        ([dict(type='RandomChoiceResize', scales=[480, 800])], [step(800, 800)]),
        ([dict(type='RandomResizedCrop', scale=224)], [step(512, 512)]),
        ([dict(type='Mosaic'), step(320, 320)], [step(1333, 800)]),
        ([step(320, 320)], [dict(type='ResizeEdge', scale=256)]),
        ([], [step(320, 320)]),
        (None, None),
    ],
)
def test_scales_that_go_together_or_are_not_known(train, val):
    assert list(check_scales(resized(train, val), ['train', 'val'])) == []


def test_a_wrapper_with_steps_of_its_own_is_not_known():
    cfg = resized([step(320, 320)], [step(1333, 800)])
    inner = cfg['train_dataloader']['dataset']
    cfg['train_dataloader']['dataset'] = dict(type='Mix', dataset=inner, pipeline=[step(1333, 800)])
    assert list(check_scales(cfg, ['train', 'val'])) == []


def test_one_option_that_changes_the_training_only():
    """The case of many a report: figures fall, and nothing says why."""
    cfg = load(DETECTOR)
    (index,) = [
        i for i, s in enumerate(cfg.train_dataloader.dataset.pipeline) if s['type'] == 'Resize'
    ]
    key = f'train_dataloader.dataset.pipeline.{index}.scale'
    assert ('other-scale', 'val_dataloader.dataset.pipeline') in found(DETECTOR, {key: (64, 64)})
    assert problems(DETECTOR, {key: (128, 128)}) == []
