import logging

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from biformer_mm.datasets.checks.problems import KINDS
from biformer_mm.engine.runner.evaluation import check_metrics, warn_of_absent_classes

CLASSES = ('road', 'tree', 'car', 'sky')


@pytest.fixture
def logger(caplog):
    MMLogger.get_instance('test_evaluation')  # mmseg's metric prints a table
    log = logging.getLogger('test_evaluation_warnings')
    caplog.set_level(logging.INFO, logger=log.name)
    return log


def evaluate(metric, maps, size=6):
    """Evaluate random predictions; return the metrics."""
    rng = np.random.default_rng(0)
    for truth in maps:
        predicted = torch.tensor(rng.integers(0, len(CLASSES), (1, size, size)))
        sample = dict(
            pred_sem_seg=dict(data=predicted),
            gt_sem_seg=dict(data=torch.tensor(np.resize(truth, (1, size, size)))),
        )
        metric.process({}, [sample])
    return metric.evaluate(len(maps))


def iou_metric(logger=None, **options):
    metric = pytest.importorskip('mmseg.evaluation').IoUMetric(**options)
    metric.dataset_meta = dict(classes=CLASSES)
    if logger:
        warn_of_absent_classes(metric, logger)
    return metric


def test_absent_classes_are_named_once(logger, caplog):
    metric = iou_metric(logger)
    evaluate(metric, [[0, 2], [0, 255], [2]])
    (record,) = caplog.records
    assert record.getMessage().startswith(
        '2 of 4 classes have no pixel in the evaluated maps: tree, sky. '
    )
    evaluate(metric, [[0]])
    assert len(caplog.records) == 1


def test_classes_that_are_in_one_map_only_are_not_named(logger, caplog):
    evaluate(iou_metric(logger), [[0], [1], [3, 2]])
    assert not caplog.records


def test_looking_changes_no_figure(logger):
    maps = [[0, 2], [1, 255], [2]]
    assert evaluate(iou_metric(logger), maps) == evaluate(iou_metric(), maps)


def test_metrics_without_counts_stay(logger, tmp_path):
    formatting = iou_metric(logger, format_only=True, output_dir=str(tmp_path))
    for metric in (formatting, object()):
        warn_of_absent_classes(metric, logger)
        assert 'compute_metrics' not in getattr(metric, '__dict__', {})


def coco_metric(name='CocoMetric', **options):
    metrics = pytest.importorskip('mmdet.evaluation')
    return getattr(metrics, name)(**options)


@pytest.mark.parametrize('prefix', [None, 'night'])
def test_no_detection_at_all(prefix, tmp_path):
    """As the metric itself answers for predictions without a box."""
    metric = coco_metric(prefix=prefix)
    metric.dataset_meta = dict(classes=CLASSES)
    nothing = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    truth = dict(bbox=[1, 1, 3, 3], bbox_label=0, ignore_flag=0)
    metric.process(
        {}, [dict(img_id=0, ori_shape=(8, 8), pred_instances=nothing, instances=[truth])]
    )
    results = metric.evaluate(1)
    (problem,) = check_metrics('test_evaluator', [metric], results)
    assert (problem.kind, problem.file) == ('no-metrics', 'test_evaluator')
    assert KINDS['no-metrics'] == 'warning'


def test_detections_of_no_use_are_measured():
    results = {'coco/bbox_mAP': 0.0, 'coco/bbox_mAP_50': 0.0}
    assert list(check_metrics('val_evaluator', [coco_metric()], results)) == []
    # of several data sets
    results = {'first/coco/bbox_mAP': 0.1}
    assert list(check_metrics('val_evaluator', [coco_metric()], results)) == []


def test_what_only_writes_files_gives_no_metric(tmp_path):
    from mmengine.evaluator import DumpResults

    formatting = coco_metric(format_only=True, outfile_prefix=str(tmp_path / 'out'))
    dump = DumpResults(str(tmp_path / 'out.pkl'))
    assert list(check_metrics('test_evaluator', [formatting, dump], {})) == []
    assert list(check_metrics('test_evaluator', [], {})) == []
