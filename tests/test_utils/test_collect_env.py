"""What an issue is asked for."""

import subprocess
import sys

import mmengine
import torch

from biformer_mm import __version__


def test_command_prints_versions():
    output = subprocess.run(
        [sys.executable, '-m', 'biformer_mm.utils.collect_env'],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout
    lines = output.splitlines()
    for line in (
        f'biformer_mm: {__version__}',
        f'torch: {torch.__version__}',
        f'mmengine: {mmengine.__version__}',
    ):
        assert line in lines
    assert any(line.startswith('backends: ') and 'sdpa' in line for line in lines)
