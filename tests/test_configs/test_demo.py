"""The demo's configs against the data that they are made for."""

import runpy

import pytest
from config_checks import load
from tool_runner import ROOT

from biformer_mm.datasets import SHAPES_CLASSES, SHAPES_PALETTE

TASKS = runpy.run_path(str(ROOT / 'tools' / 'demo.py'))['TASKS']


@pytest.mark.parametrize('method', ['retinanet', 'mask_rcnn'])
def test_detectors_name_the_shapes(method):
    cfg = load(f'{method}_biformer_demo')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.metainfo.classes == SHAPES_CLASSES
        assert loader.dataset.metainfo.palette == SHAPES_PALETTE


@pytest.mark.parametrize('method', ['semantic_fpn', 'upernet'])
def test_segmentors_name_the_background_and_the_shapes(method):
    cfg = load(f'{method}_biformer_demo')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        metainfo = loader.dataset.metainfo
        assert metainfo.classes == ('background', *SHAPES_CLASSES)
        assert metainfo.palette[1:] == SHAPES_PALETTE
        assert len(metainfo.palette) == cfg.model.decode_head.num_classes


@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS)
def test_tool_makes_the_data_that_the_config_reads(task):
    cfg = load(task.config)
    assert cfg.data_root == f'data/shapes/{task.data["layout"]}/'
    size = task.data.get('image_size', 160)
    for step in cfg.test_pipeline:
        assert step.get('scale', (size, size)) == (size, size)
