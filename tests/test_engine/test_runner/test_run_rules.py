"""Rules about built data sets and evaluators; tests/test_tools/test_rules.py runs the tools."""

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope

from biformer_mm.engine.runner.run_rules import RunRules

OBJECT = (
    '<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>'
    '<xmax>9</xmax><ymax>9</ymax></bndbox></object>'
)


@pytest.fixture
def voc(tmp_path):
    """Six images in Pascal VOC's layout, some of whose objects are difficult."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets'):
        (tmp_path / folder).mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / f'JPEGImages/{number}.jpg'), np.zeros((40, 50, 3), np.uint8))
        objects = OBJECT.format('cat', number % 2) + OBJECT.format('dog', 0)
        (tmp_path / f'Annotations/{number}.xml').write_text(
            f'<annotation><size><width>50</width><height>40</height></size>{objects}</annotation>'
        )
    (tmp_path / 'ImageSets' / 'all.txt').write_text('\n'.join(map(str, range(6))))
    return tmp_path


def test_data_sets_that_are_read_otherwise_are_passed_over(voc):
    init_default_scope('mmdet')
    leaf = dict(
        type='XMLDataset',
        data_root=str(voc),
        ann_file='ImageSets/all.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('cat', 'dog')),
        pipeline=[],
    )
    repeated = dict(type='RepeatDataset', times=2, dataset=leaf)
    wrapped = dict(type='ConcatDataset', datasets=[repeated], ignore_keys=['dataset_type'])
    evaluator = dict(type='VOCMetric', metric='mAP')
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=wrapped),
            val_dataloader=dict(dataset=leaf),
            val_evaluator=evaluator,
        )
    )
    rules = RunRules(cfg, (), SimpleNamespace(info=pytest.fail, warning=pytest.fail))
    for split in ('train', 'val'):
        rules.check_dataset(split, DATASETS.build(cfg[f'{split}_dataloader'].dataset), {})
    assert rules.facts == []
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[METRICS.build(evaluator)]))
    rules.check_run(SimpleNamespace(_val_loop=loop, _test_loop=None), None)


def test_a_built_data_set_and_loops_without_an_evaluator_are_passed_over():
    rules = RunRules(Config(dict(train_dataloader=[1, 2])), (), logging.getLogger('rules'))
    rules.check_dataset('train', [dict(inputs=1)], {})
    runner = SimpleNamespace(_val_loop=None, _test_loop=object())
    rules.check_run(runner, None)
    rules.check_metrics(runner, 'test', {})
