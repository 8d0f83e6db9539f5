"""Training by two processes is training by one."""

import re

import pytest
import torch
from process_runner import SEGMENTOR
from tool_runner import run_tool

# Batch norm would see the statistics of one picture in each process.
GROUP_NORM = ['model.decode_head.norm_cfg.type=GN', 'model.decode_head.norm_cfg.num_groups=8']

pytestmark = pytest.mark.slow  # the fixture takes half a minute or more


@pytest.fixture(scope='module')
def runs(data_options, tmp_path_factory):
    """Work directories, and what was printed, of one process with two
    pictures and of two with one each."""
    one, two = (tmp_path_factory.mktemp(name) for name in ('one', 'two'))
    options = [*data_options, *GROUP_NORM]
    return [
        (
            one,
            run_tool(
                'train.py',
                SEGMENTOR,
                '--work-dir',
                one,
                *options,
                'train_dataloader.batch_size=2',
                cwd=one,
            ),
        ),
        (two, run_tool('dist_train.sh', SEGMENTOR, 2, '--work-dir', two, *options, cwd=two)),
    ]


def test_step_of_two_processes_is_the_step_of_one(runs):
    one, two = (torch.load(work_dir / 'epoch_1.pth', weights_only=False) for work_dir, _ in runs)
    assert one['meta']['iter'] == two['meta']['iter'] == 1
    assert one['state_dict'].keys() == two['state_dict'].keys()
    for name, value in one['state_dict'].items():
        torch.testing.assert_close(two['state_dict'][name], value, rtol=0, atol=1e-6, msg=name)
    (group,) = one['optimizer']['param_groups']
    largest = max(
        state['momentum_buffer'].abs().max() for state in one['optimizer']['state'].values()
    )
    assert largest * group['lr'] > 1e-3  # else any two steps are as close


def test_stages_that_no_output_needs_do_not_stop_two_processes(data_options, tmp_path):
    """PyTorch would refuse unused parameters in the second iteration."""
    options = [
        'model.backbone.out_indices=(0,1,2)',
        'model.neck.in_channels=[32,64,128]',
        'train_cfg.max_epochs=2',
    ]
    run_tool(
        'dist_train.sh', SEGMENTOR, 2, '--work-dir', tmp_path, *data_options, *options, cwd=tmp_path
    )
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert saved['meta']['iter'] == 2
    assert not any(name.startswith('backbone.stages.3') for name in saved['state_dict'])


def test_rank_zero_alone_writes(runs):
    files = [
        sorted(
            re.sub(r'\d{8}_\d{6}', 'TIME', str(path.relative_to(work_dir)))
            for path in work_dir.rglob('*')
            if path.is_file()
        )
        for work_dir, _ in runs
    ]
    assert files[0] == files[1]
    assert files[1].count('TIME/TIME.log') == 1
    for _, output in runs:
        assert output.count('Saving checkpoint at 1 epochs') == 1
        assert len(re.findall(r'Epoch\(val\) .* aAcc', output)) == 1
