"""When a process of a distributed run fails, the run ends."""

import signal
from pathlib import Path

import pytest
from process_runner import SEGMENTOR, start, start_two
from tool_runner import ROOT, run_tool

MINUTE = 60  # bounds, which a run that works is far from

HERE = Path(__file__).parent
VARIABLES = dict(PYTHONPATH=str(HERE))  # of the config's hook


def wait_for_death(process):
    for line in process.stdout:
        if 'rank 1 dies' in line:
            return
    raise AssertionError('rank 1 ended before it was killed')


def test_torchrun_ends_when_a_process_is_killed(data_options, tmp_path):
    launcher = start(
        [
            ROOT / 'tools' / 'dist_train.sh',
            HERE / 'deadly.py',
            2,
            '--work-dir',
            tmp_path,
            *data_options,
        ],
        tmp_path,
        **VARIABLES,
    )
    wait_for_death(launcher)
    launcher.communicate(timeout=MINUTE)  # all that could print has ended
    assert launcher.returncode != 0


@pytest.mark.slow
def test_survivor_ends_without_torchrun(data_options, tmp_path):
    survivor, victim = start_two(
        'slurm',
        'train.py',
        HERE / 'deadly.py',
        '--work-dir',
        tmp_path,
        *data_options,
        cwd=tmp_path,
        **VARIABLES,
    )
    wait_for_death(victim)
    survivor.communicate(timeout=MINUTE)
    victim.communicate(timeout=MINUTE)
    assert victim.returncode == -signal.SIGKILL
    assert survivor.returncode != 0


def test_usage_error_is_printed_once(tmp_path):
    output = run_tool('dist_train.sh', SEGMENTOR, 2, cwd=tmp_path, ok=False)
    assert output.count('train.py: error: data not found') == 1
    assert not list(tmp_path.iterdir())
