"""MIM and mmdet's own tools, on configs with BiFormer and with the attention in a ResNet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mim  # noqa: F401, run as a module below
import mmdet
import mmengine
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.datasets import make_shapes

EXAMPLES = ROOT / 'examples'
CONFIG = EXAMPLES / 'mmdet_project' / 'configs' / 'faster_rcnn_shapes.py'
TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'
OPTIONS = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=2'] + [
    f'{split}_dataloader.{option}'
    for split in ('train', 'val', 'test')
    for option in ('num_workers=0', 'persistent_workers=False')
]
FEW_PROPOSALS = 'model.test_cfg.rpn.max_per_img=50'


def run(project, *command, ok=True):
    """Run Python in a project's folder, which is the home folder too, as MIM writes to it."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=project,
        env={**os.environ, 'HOME': str(project)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert (result.returncode == 0) == ok, result.stdout[-5000:]
    return result.stdout


def checkpoint(folder, epoch=1):
    return torch.load(folder / f'epoch_{epoch}.pth', map_location='cpu', weights_only=False)


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A project's folder with its data."""
    project = tmp_path_factory.mktemp('project')
    make_shapes(project / 'data' / 'shapes', num_train=2, num_val=2)
    return project


@pytest.fixture(scope='module')
def trained(project):
    """The folder of a training with MIM and mmdet, of one epoch."""
    options = ['--cfg-options', *OPTIONS, FEW_PROPOSALS]
    printed = run(project, '-m', 'mim', 'train', 'onedl-mmdetection', CONFIG, *options)
    assert 'Training finished successfully' in printed
    return project / 'work_dirs' / CONFIG.stem


def test_mim_trains_a_detector(trained):
    saved = checkpoint(trained)
    assert saved['meta']['iter'] == 1
    states = saved['optimizer']['state'].values()
    assert len(states) == sum(len(group['params']) for group in saved['optimizer']['param_groups'])
    assert all(state['exp_avg'].any() for state in states)
    assert any(name.startswith('backbone.stages.3') for name in saved['state_dict'])


def test_mim_does_not_know_the_fork_as_mmdet(project):
    """Also mmdet3d has mmdet in its name. If this fails, shorten examples/mmdet_project."""
    printed = run(project, '-m', 'mim', 'train', 'mmdet', CONFIG, ok=False)
    assert "Can't determine a unique package given abbreviation mmdet" in printed


def test_mmdets_tool_predicts_what_the_model_does(project, trained):
    weights = trained / 'epoch_1.pth'
    options = ['--cfg-options', *OPTIONS, FEW_PROPOSALS, 'model.test_cfg.rcnn.score_thr=0']
    command = [TOOLS / 'test.py', CONFIG, weights, '--out', 'found.pkl', *options]
    assert 'coco/bbox_mAP' in run(project, *command)
    found = mmengine.load(project / 'found.pkl')

    cfg = Config.fromfile(CONFIG)
    cfg.model.test_cfg.rpn.max_per_img, cfg.model.test_cfg.rcnn.score_thr = 50, 0
    model = init_detector(cfg, str(weights), device='cpu')
    assert len(found) == 2
    for sample in found:
        expected = inference_detector(model, str(project / sample['img_path'])).pred_instances
        assert len(expected.scores) > 10
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(sample['pred_instances'][key], expected[key])


def test_mmdets_tool_resumes(project, trained):
    options = ['--resume', '--cfg-options', *OPTIONS, FEW_PROPOSALS, 'train_cfg.max_epochs=2']
    printed = run(project, TOOLS / 'train.py', CONFIG, *options)
    assert 'resumed epoch: 1, iter: 1' in printed
    assert checkpoint(trained, epoch=2)['meta']['iter'] == 2


def test_mim_trains_with_our_tool(project):
    options = ['--cfg-options', *OPTIONS, FEW_PROPOSALS]
    command = ['-m', 'mim', 'train', 'biformer_mm', CONFIG, '--work-dir', 'ours']
    assert 'WholeCheckpointHook' in run(project, *command, *options)  # only our tool adds it
    assert checkpoint(project / 'ours')['meta']['iter'] == 1


def test_mim_trains_a_resnet_with_the_attention(project):
    cfg = Config.fromfile(EXAMPLES / 'resnet_plugin' / 'retinanet_r50_bra.py')
    cfg.merge_from_dict(Config.fromfile(CONFIG.with_name('shapes.py')).to_dict())
    cfg.model.backbone.init_cfg = None  # no download
    cfg.model.backbone.zero_init_residual = False  # or the first steps reach no plug-in
    cfg.model.bbox_head.num_classes = 4
    cfg.dump(project / 'plugin.py')
    command = ['-m', 'mim', 'train', 'onedl-mmdetection', 'plugin.py', '--cfg-options', *OPTIONS]
    run(project, *command)
    weights = checkpoint(project / 'work_dirs' / 'plugin')['state_dict']
    # The attention's last layer starts at zero.
    last = [name for name in weights if re.search(r'\.bra\w*\.attn\.proj\.weight$', name)]
    assert len(last) == 6 + 3
    assert all(weights[name].any() for name in last)
