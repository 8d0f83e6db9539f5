"""The options that .ci/run gives to pytest."""

import shutil
import subprocess
import sys
import time

import pytest
from tool_runner import ROOT

TESTS = """
import pytest

def test_of_a_gpu():
    pytest.skip('needs a GPU')

@pytest.mark.skipif(True, reason='a reason of its own')
def test_of_something_else():
    pass

def test_that_runs():
    pass
"""


@pytest.fixture(scope='module')
def call(tmp_path_factory):
    """Run tests, among the suite's own hooks; return status and output."""
    folder = tmp_path_factory.mktemp('suite')
    for name in ('conftest.py', 'known_skips.py'):
        shutil.copy(ROOT / 'tests' / name, folder)
    (folder / 'pytest.ini').write_text('[pytest]')
    (folder / 'test_all.py').write_text(TESTS)
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider']

    def run(*args):
        result = subprocess.run(
            [*command, *args],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return result.returncode, result.stdout

    return run


def test_an_unknown_skip_fails(call):
    status, said = call('--known-skips')
    assert status == 1, said
    assert 'test_all.py::test_of_a_gpu: needs a GPU\n' in said
    assert 'test_all.py::test_of_something_else: a reason of its own\n' in said
    assert "known_skips.py has no 'a reason of its own'" in said
    assert "known_skips.py has no 'needs a GPU'" not in said


def test_a_known_skip_is_printed(call):
    status, said = call('--known-skips', '-k', 'not else')
    assert status == 0, said
    assert 'test_all.py::test_of_a_gpu: needs a GPU\n' in said


def test_skips_are_nobodys_business_without_the_option(call):
    status, said = call()
    assert status == 0, said
    assert 'a reason of its own' not in said


@pytest.mark.parametrize('options', [[], ['-n2']])
@pytest.mark.parametrize('left, passed', [(-1, 0), (1000, 1)])
def test_no_test_is_started_too_late(call, left, passed, options):
    status, said = call(
        f'--until={int(time.time()) + left}', '-k', 'runs', '--known-skips', *options
    )
    assert status == 0, said
    assert (' 1 passed' in said) == passed
    assert ('test_all.py::test_that_runs: no time was left\n' in said) != passed
