import os
import shutil
import time
from collections import Counter
from importlib.util import find_spec

if 'PYTEST_XDIST_WORKER' in os.environ:
    # Workers share the cores. PyTorch reads it on import, and so do the tools that tests start.
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import known_skips
import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads it when the kernels are defined, on import of the ops.
    os.environ.setdefault('TRITON_INTERPRET', '1')
# Its telemetry begins when it is imported.
os.environ['ORT_DISABLE_TELEMETRY'] = '1'
if find_spec('mmengine'):  # as the tools do
    from biformer_mm.utils import register_all_modules

    register_all_modules()


def pytest_addoption(parser):
    parser.addoption(
        '--known-skips',
        action='store_true',
        help='fail if a test is skipped for a reason that is not in tests/known_skips.py',
    )
    parser.addoption(
        '--until',
        type=int,
        metavar='SECONDS',
        help='start no test later than this, in seconds as of `date +%s`',
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    """Mark the cases of a test as slow, all but the first N of `first_tier(N)`."""
    cases = Counter()
    for item in items:
        mark = item.get_closest_marker('first_tier')
        if mark:
            test = item.nodeid.partition('[')[0]
            cases[test] += 1
            if cases[test] > mark.args[0]:
                item.add_marker('slow')


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip the test if there is no time left for it."""
    until = item.config.option.until
    if until is not None and time.time() >= until:
        pytest.skip('no time was left')


def pytest_sessionfinish(session):
    if session.config.option.known_skips:
        _, unknown = known_skips.summarize(skipped_in(session.config))
        if unknown and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if config.option.known_skips:
        lines, unknown = known_skips.summarize(skipped_in(config))
        if lines:
            terminalreporter.section('skipped tests')
        for line in lines:
            terminalreporter.line(line)
        for reason in unknown:
            terminalreporter.line(
                f'ERROR: tests/known_skips.py has no {reason!r}: make the '
                'test run, or add the reason',
                red=True,
            )


def skipped_in(config):
    """Return the reports of skipped tests; none in a worker of xdist, which has no reporter."""
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    return reporter.stats.get('skipped', []) if reporter else []


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A small data set of the demo's kind."""
    from biformer_mm.datasets import make_shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, num_train=8, num_val=4)


@pytest.fixture(scope='session')
def healthy(tmp_path_factory):
    """Small data sets by layout, which nothing is wrong with."""
    from biformer_mm.datasets import make_shapes

    root = tmp_path_factory.mktemp('healthy')
    return {
        layout: make_shapes(root / layout, layout, 4, 2, image_size=64)
        for layout in ('coco', 'ade20k', 'imagenet')
    }


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory):
    """Paths of random weights of a model of each kind, with names of the classes."""
    from random_models import save_checkpoints

    return save_checkpoints(tmp_path_factory.mktemp('weights'))


@pytest.fixture
def copy(healthy, tmp_path):
    """Copies of a layout's healthy data, to be broken."""

    def make(layout):
        return shutil.copytree(healthy[layout], tmp_path / layout)

    return make
