"""The example of an mmrotate project, with mmrotate's own tools and with ours."""

import runpy
from pathlib import Path

import cv2
import mmengine
import mmrotate
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmrotate.structures.bbox import rbox2qbox
from tool_runner import ROOT, run_tool

PROJECT = ROOT / 'examples' / 'mmrotate_project'
CONFIG = PROJECT / 'configs' / 'rotated_retinanet_turned.py'
TOOLS = Path(mmrotate.__file__).parent / '.mim' / 'tools'
# All of the boxes of an untrained model take long.
TEST_CFG = dict(score_thr=0, max_per_img=50)
OPTIONS = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_begin=2'] + [
    f'{split}_dataloader.{option}'
    for split in ('train', 'val', 'test')
    for option in ('dataset.indices=8', 'num_workers=0', 'persistent_workers=False')
]
OPTIONS += [f'model.test_cfg.{name}={value}' for name, value in TEST_CFG.items()]


def checkpoint(folder):
    return torch.load(folder / 'epoch_1.pth', map_location='cpu', weights_only=False)


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A project's folder with its data."""
    project = tmp_path_factory.mktemp('project')
    run_tool(PROJECT / 'make_data.py', cwd=project)
    return project


@pytest.fixture(scope='module')
def trained(project):
    """The checkpoint of one epoch with mmrotate's tool."""
    run_tool(TOOLS / 'train.py', CONFIG, '--work-dir', 'theirs', *OPTIONS, cwd=project)
    return project / 'theirs' / 'epoch_1.pth'


def test_annotations_are_the_corners_of_the_shapes(project):
    """Inside the corners lies the class's colour, and nowhere else."""
    kinds = runpy.run_path(str(PROJECT / 'make_data.py'))['KINDS']
    for path in sorted((project / 'data' / 'turned' / 'val' / 'annfiles').iterdir())[:5]:
        picture = cv2.imread(str(path.parents[1] / 'images' / f'{path.stem}.png'))
        rest = np.ones(picture.shape[:2], bool)
        for line in path.read_text().splitlines():
            *corners, kind, _ = line.split()
            corners = np.array(corners, float).reshape(4, 1, 2)
            inside = np.zeros(picture.shape[:2], np.uint8)
            cv2.fillPoly(inside, [np.rint(corners).astype(int)], 1)
            distance = np.abs(picture.astype(int) - kinds[kind][2]).max(axis=2)
            assert (distance[cv2.erode(inside, np.ones((5, 5))) == 1] == 0).all()
            rest &= cv2.dilate(inside, np.ones((5, 5))) == 0
        # The noise of the background does not reach a class's colour.
        for _, _, colour in kinds.values():
            assert np.abs(picture[rest].astype(int) - colour).max(axis=1).min() > 10


def test_mmrotates_tool_trains_all_of_the_backbone(trained):
    saved = checkpoint(trained.parent)
    assert saved['meta']['iter'] == 2
    states = saved['optimizer']['state'].values()
    assert len(states) == sum(len(group['params']) for group in saved['optimizer']['param_groups'])
    assert all(state['exp_avg'].any() for state in states)
    assert any(name.startswith('backbone.stages.3') for name in saved['state_dict'])


def test_mmrotates_tool_predicts_turned_boxes_as_the_model_does(project, trained):
    # One picture at a time, as below: scores of a model that is hardly trained are close, and
    # rounding sorts them.
    options = [*OPTIONS, 'test_dataloader.batch_size=1']
    printed = run_tool(
        TOOLS / 'test.py', CONFIG, trained, '--out', 'found.pkl', *options, cwd=project
    )
    assert 'dota/mAP' in printed
    found = mmengine.load(project / 'found.pkl')
    assert len(found) == 8

    cfg = Config.fromfile(CONFIG)
    cfg.model.test_cfg.update(TEST_CFG)
    model = init_detector(cfg, str(trained), device='cpu')
    for sample in found[:2]:
        expected = inference_detector(model, str(project / sample['img_path'])).pred_instances
        boxes = sample['pred_instances']['bboxes']
        assert len(boxes) > 10
        assert boxes.shape[1] == 5 and boxes[:, 4].unique().numel() > 1  # x, y, w, h, angle
        assert rbox2qbox(boxes).isfinite().all()
        torch.testing.assert_close(boxes, expected.bboxes)
        torch.testing.assert_close(sample['pred_instances']['scores'], expected.scores)


def test_our_tools_train_and_test_it(project):
    run_tool('train.py', CONFIG, '--work-dir', 'ours', *OPTIONS, cwd=project)
    assert checkpoint(project / 'ours')['meta']['iter'] == 2
    weights = project / 'ours' / 'epoch_1.pth'
    assert 'dota/mAP' in run_tool('test.py', CONFIG, weights, *OPTIONS, cwd=project)
