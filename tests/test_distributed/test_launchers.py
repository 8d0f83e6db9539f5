"""Processes with the variables of Slurm and Open MPI, on CPUs."""

import pytest
import torch
from process_runner import SEGMENTOR, start_two


@pytest.mark.slow
@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_two_processes_train_on_cpus(launcher, data_options, tmp_path):
    processes = start_two(
        launcher, 'train.py', SEGMENTOR, '--work-dir', tmp_path, *data_options, cwd=tmp_path
    )
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert state['meta']['iter'] == 1  # 2 pictures by 2 processes x 1
    assert f'Distributed launcher: {launcher}' in outputs[0]
    notice = 'No GPU: SyncBN trains as BN'
    assert [output.count(notice) for output in outputs] == [1, 0]
