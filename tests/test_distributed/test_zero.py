"""DeepSpeed, which the second tier installs, through MMEngine's
FlexibleRunner."""

from importlib.util import find_spec

import pytest
from tool_runner import ROOT, run_tool

from biformer_mm.datasets import make_shapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec('deepspeed') is None, reason='DeepSpeed is not installed'),
]


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_state_is_sharded_and_resumed(stage, tmp_path):
    root = make_shapes(tmp_path / 'shapes', num_train=4, num_val=2)
    annotations = root / 'annotations' / 'instances_val.json'

    def train(*args, epochs):
        return run_tool(
            'dist_train.sh',
            ROOT / 'configs' / 'retinanet_biformer_demo_zero.py',
            2,
            *args,
            '--work-dir',
            tmp_path / 'work_dir',
            '--cfg-options',
            f'strategy.zero_optimization.stage={stage}',
            f'train_cfg.max_epochs={epochs}',
            f'train_dataloader.dataset.data_root={root}',
            f'val_dataloader.dataset.data_root={root}',
            f'val_evaluator.ann_file={annotations}',
            cwd=tmp_path,
        )

    train(epochs=1)
    checkpoint = tmp_path / 'work_dir' / 'epoch_1.pth'
    assert len(list(checkpoint.glob('*optim_states.pt'))) == 2
    assert 'resumed epoch: 1' in train('--resume', '--trust', epochs=2)
