import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def sandbox(tmp_path_factory):
    """What the pages' commands find in a checkout."""
    from documentation.sandbox import Sandbox

    return Sandbox(tmp_path_factory.mktemp('sandbox'))


@pytest.fixture(scope='session')
def variables(tmp_path_factory):
    """Environment in which `python` starts at once."""
    from documentation.sandbox import environment

    folder = tmp_path_factory.mktemp('py')
    variables = environment(folder / 'socket', folder / 'bin')
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name('preloaded.py'), 'serve', folder / 'socket'],
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
    )
    while server.stdout.readline() not in ('ready\n', ''):
        pass  # what libraries print when they are imported
    yield variables
    server.terminate()
    server.wait()
