"""The example of an mmdet project, with mmdet's own tool."""

import re
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.datasets import make_shapes

PROJECT = ROOT / 'examples' / 'mmdet_project'
CONFIG = PROJECT / 'configs' / 'faster_rcnn_shapes.py'


@pytest.fixture(scope='module')
def diff():
    """Lines of the README's diff."""
    text = (PROJECT / 'README.md').read_text()
    return re.search('```diff\n(.*?)```', text, re.DOTALL)[1].splitlines()


def test_diff_is_of_the_config(diff):
    """custom_imports and three lines, on top of a project with a ResNet."""
    after = '\n'.join(line[1:] for line in diff)
    before = '\n'.join(line[1:] for line in diff if line[0] == ' ')
    added = [line[1:].strip() for line in diff if line[0] == '+']
    assert added[0].startswith('custom_imports') and len(added) == 4
    text = CONFIG.read_text()
    assert after in text
    shapes = repr(str(CONFIG.parent / 'shapes.py'))
    text = text.replace(after, before).replace("'./shapes.py'", shapes)
    without = Config.fromstring(text, '.py')
    assert without.model.backbone.type == 'ResNet'
    assert 'biformer' not in without.pretty_text.lower()


@pytest.mark.slow
def test_mmdets_tool_trains_biformer(tmp_path):
    make_shapes(tmp_path / 'data' / 'shapes', num_train=4, num_val=2)
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    options = ['train_cfg.max_epochs=1', 'model.test_cfg.rpn.max_per_img=50']
    for loader in ('train_dataloader', 'val_dataloader'):
        options += [
            f'{loader}.batch_size=2',
            f'{loader}.num_workers=0',
            f'{loader}.persistent_workers=False',
        ]
    result = subprocess.run(
        [sys.executable, str(tool), str(CONFIG), '--cfg-options', *options],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    assert 'Epoch(val) [1][1/1]' in result.stdout
    saved = torch.load(tmp_path / 'work_dirs' / CONFIG.stem / 'epoch_1.pth', weights_only=False)
    assert saved['meta']['iter'] == 2
    assert any(k.startswith('backbone.stages.3') for k in saved['state_dict'])
    optimizer = saved['optimizer']  # AdamW: state of what had gradients
    params = [p for group in optimizer['param_groups'] for p in group['params']]
    assert sorted(optimizer['state']) == sorted(params)
    assert all(s['exp_avg'].any() for s in optimizer['state'].values())
