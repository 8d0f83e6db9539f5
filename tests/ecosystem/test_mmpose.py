"""The example of an mmpose project, with mmpose's own tools and with ours."""

import json
from pathlib import Path

import cv2
import mmengine
import mmpose
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpose.apis import inference_topdown, init_model
from tool_runner import ROOT, run_tool

PROJECT = ROOT / 'examples' / 'mmpose_project'
CONFIG = PROJECT / 'configs' / 'heatmap_figures.py'
TOOLS = Path(mmpose.__file__).parent / '.mim' / 'tools'
OPTIONS = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'] + [
    f'{split}_dataloader.{option}'
    for split in ('train', 'val', 'test')
    for option in ('num_workers=0', 'persistent_workers=False')
]
OPTIONS += ['train_dataloader.dataset.indices=16', 'default_hooks.checkpoint.interval=1']


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
    """The checkpoint of one epoch with mmpose's tool."""
    printed = run_tool(TOOLS / 'train.py', CONFIG, '--work-dir', 'theirs', *OPTIONS, cwd=project)
    assert 'coco/AP' in printed
    return project / 'theirs' / 'epoch_1.pth'


def test_key_points_lie_on_the_figures(project):
    """Each joint is drawn in the figure's colour, the face's ones in black."""
    root = project / 'data' / 'figures'
    content = json.loads((root / 'annotations' / 'val.json').read_text())
    for image, figure in zip(content['images'][:5], content['annotations']):
        assert figure['image_id'] == image['id']
        picture = cv2.imread(str(root / 'val' / image['file_name']))
        points = np.array(figure['keypoints']).reshape(17, 3)
        x, y = points[:, :2].round().astype(int).T
        brightness = picture[y, x].min(axis=1)
        assert (brightness[:5] < 60).all() and (brightness[5:] > 165).all()
        x, y, width, height = figure['bbox']
        assert (points[:, :2] > (x, y)).all() and (points[:, :2] < (x + width, y + height)).all()


def test_mmposes_tool_trains_all_of_the_backbone(trained):
    saved = checkpoint(trained.parent)
    assert saved['meta']['iter'] == 2
    states = saved['optimizer']['state'].values()
    assert len(states) == sum(len(group['params']) for group in saved['optimizer']['param_groups'])
    assert all(state['exp_avg'].any() for state in states)
    assert any(name.startswith('backbone.stages.3') for name in saved['state_dict'])


def test_mmposes_tool_predicts_what_the_model_does(project, trained):
    printed = run_tool(
        TOOLS / 'test.py', CONFIG, trained, '--dump', 'found.pkl', *OPTIONS, cwd=project
    )
    assert 'coco/AP' in printed
    found = mmengine.load(project / 'found.pkl')
    assert len(found) == 24

    model = init_model(str(CONFIG), str(trained), device='cpu')
    with DefaultScope.overwrite_default_scope('mmpose'):
        for sample in found[:2]:
            boxes = sample['gt_instances']['bboxes']
            (expected,) = inference_topdown(model, str(project / sample['img_path']), boxes)
            points = sample['pred_instances']['keypoints']
            assert points.shape == (1, 17, 2)
            np.testing.assert_allclose(points, expected.pred_instances.keypoints, atol=1e-3)


def test_our_tools_train_and_test_it(project):
    run_tool('train.py', CONFIG, '--work-dir', 'ours', *OPTIONS, cwd=project)
    assert checkpoint(project / 'ours')['meta']['iter'] == 2
    weights = project / 'ours' / 'epoch_1.pth'
    assert 'coco/AP' in run_tool('test.py', CONFIG, weights, *OPTIONS, cwd=project)
