"""mmdet's two metrics of COCO: pycocotools and faster-coco-eval."""

import json

import pytest
from tool_runner import ROOT, load_module

pytest.importorskip('faster_coco_eval')


@pytest.fixture(scope='module')
def bench():
    import sys

    sys.path.insert(0, str(ROOT / 'benchmarks'))
    yield load_module(ROOT / 'benchmarks' / 'bench_coco_metric.py')
    sys.path.remove(str(ROOT / 'benchmarks'))


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_figures_are_equal(bench, kind, tmp_path):
    """Of all classes and of each, on generated pictures; crowds, several
    detections of an object and equal scores included."""
    truth, samples = bench.generate(images=40, detections=30)
    assert any(x['iscrowd'] for x in truth['annotations'])
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(truth))
    slow, fast = (bench.evaluate(metric, str(path), samples, kind)[0] for metric in bench.METRICS)
    assert 0.1 < slow[f'{kind}_mAP'] < 0.9
    assert len(slow) > len(bench.CLASSES)
    assert str(fast) == str(slow)  # as text: nan of classes without objects
