import importlib
import os
import sys

import pytest
from tool_runner import ROOT

BENCHMARKS = ROOT / 'benchmarks'


@pytest.fixture
def load(monkeypatch):
    """Import a module of the benchmarks, as the scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(scope='session')
def environment():
    """Make an environment in which benchmarks, and more folders, are found."""

    def make(*folders):
        paths = map(str, [*folders, BENCHMARKS, ROOT])
        return {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': os.pathsep.join(paths)}

    return make
