"""Makefile and .ci/run with a fake Python in a complete environment; the metadata of setup.py."""

import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.version import Version
from tool_runner import ROOT, load_module

SCRIPT = 'tools/misc/setup_env.py'
FILES = ['Makefile', '.ci/run', 'setup.py', SCRIPT, 'biformer_mm/version.py']
FAKE_PYTHON = """#!/bin/sh
[ "$1" = -I ] && exit
echo "python $* PYTHONPATH=$PYTHONPATH PIP_FIND_LINKS=$PIP_FIND_LINKS"
"""


@pytest.fixture
def checkout(tmp_path):
    """What is read of a checkout, at a path with a space."""
    root = tmp_path / 'my projects' / 'checkout'
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / 'requirements', root / 'requirements')
    return root


def write_environment(checkout, name='.venv', lock='lock.txt'):
    environment = load_module(checkout / SCRIPT).Environment(checkout / name, lock)
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text(FAKE_PYTHON)
    environment.python.chmod(0o755)
    environment.stamp.write_text(environment.fingerprint())


class TestMake:
    @pytest.fixture
    def call(self, checkout):
        write_environment(checkout)

        def call(*command, **variables):
            # not the variables of the make that may be running these tests
            env = {name: os.environ[name] for name in os.environ if not name.startswith('MAKE')}
            env.update(PYTHON=sys.executable, PIP_NO_INDEX='1', **variables)
            return subprocess.check_output(command, cwd=checkout, env=env, text=True)

        return call

    def test_setup_again_does_nothing(self, call, checkout):
        assert call('make', 'setup') == '' and not (checkout / '.venv.lock').exists()

    @pytest.mark.parametrize(
        'target, command', [('test', '-m pytest'), ('demo', 'tools/demo.py retinanet')]
    )
    def test_environment_is_used(self, call, target, command):
        said = call('make', target, PYTHONPATH='/other')
        assert re.search(f'^python {command}.* PYTHONPATH= PIP', said, re.MULTILINE)

    def test_test_all_runs_the_second_tier_last(self, call, checkout):
        """What that needs is installed once, beside the environment."""
        pip = 'pip install .* --target .venv.second-tier -r requirements/second_tier.txt '
        first, second = 'pytest ', f'pytest -m slow .*PYTHONPATH={checkout}/.venv.second-tier '
        for expected in ([first, pip, second], [first, second]):
            said = re.findall('^python -m (.*)', call('make', 'test-all'), re.MULTILINE)
            assert len(said) == len(expected) and all(map(re.match, expected, said)), said

    def test_test_upstream_has_its_own(self, call, checkout):
        (checkout / '.venv' / 'bin' / 'python').write_text('#!/bin/sh\nexit 1')
        write_environment(checkout, '.venv-upstream', 'upstream.txt')
        assert 'python -m pytest' in call('make', 'test-upstream')

    def test_help_names_targets(self, call, checkout):
        phony = re.search('^.PHONY: help (.*)', (checkout / 'Makefile').read_text(), re.MULTILINE)
        said = re.findall(r'^make ([\w-]+)', call('make'), re.MULTILINE)
        assert {'setup', 'test', 'test-all', 'test-upstream', 'demo', 'clean', 'distclean'} <= {
            *said
        }
        assert {*said} <= {*phony.group(1).split()}

    def test_clean_keeps_the_environments(self, call, checkout):
        for name in ('tools', '.venv', '.venv-upstream'):
            (checkout / name / '__pycache__').mkdir(parents=True)
        call('make', 'clean')
        kept = {path.parent.name for path in checkout.glob('*/__pycache__')}
        assert kept == {'.venv', '.venv-upstream'}
        call('make', 'distclean')
        assert not list(checkout.glob('.venv*'))

    def test_ci_adds_the_wheels_beside_the_checkout(self, call, checkout):
        browser = checkout.parent / 'bin' / 'chromium'  # so none is installed
        browser.parent.mkdir()
        browser.touch(mode=0o755)
        write_environment(checkout, '.venv.docs')
        shutil.copy(checkout / 'requirements/docs.txt', checkout / '.venv.docs/installed.txt')
        path = f'{browser.parent}:{os.environ["PATH"]}'
        run = checkout / '.ci' / 'run'
        assert 'PIP_FIND_LINKS=/mine\n' in call(run, PATH=path, PIP_FIND_LINKS='/mine')
        wheels = checkout.parent / 'shared' / 'wheels'
        wheels.mkdir(parents=True)
        # as a URL: pip splits the list at spaces, and this path has one
        for mine in ('/mine ', ''):
            said = call(run, PATH=path, PIP_FIND_LINKS=mine.strip())
            assert f'PIP_FIND_LINKS={mine}{wheels.as_uri()}\n' in said


class TestMetadata:
    @pytest.fixture
    def metadata(self, checkout, monkeypatch):
        """The arguments of setup.py, which runs where torch cannot be imported."""
        arguments = {}
        monkeypatch.setitem(sys.modules, 'torch', None)
        monkeypatch.setattr(setuptools, 'setup', lambda **given: arguments.update(given))
        (checkout / 'biformer_mm' / 'version.py').write_text("__version__ = '9.8.7'\n")
        (checkout / 'README.md').write_text('# Title')
        monkeypatch.chdir(checkout)
        runpy.run_path('setup.py')
        return arguments

    @pytest.fixture
    def pins(self, request):
        lines = (ROOT / 'requirements' / request.param).read_text().splitlines()
        return dict(line.split('==') for line in lines if not line.startswith('#'))

    def test_version_and_readme(self, metadata):
        assert (metadata['name'], metadata['version']) == ('biformer_mm', '9.8.7')
        assert metadata['long_description'] == '# Title'

    @pytest.mark.parametrize('pins', ['lock.txt'], indirect=True)
    def test_extras_hold_the_tested_versions(self, metadata, pins):
        extras = metadata['extras_require']
        assert set(extras) == {'det', 'seg', 'cls', 'coco', 'optional', 'tests', 'all'}
        for extra, name in (('det', 'detection'), ('seg', 'segmentation'), ('cls', 'pretrain')):
            names = {Requirement(line).name for line in extras[extra]}
            assert names == {'onedl-mmcv', 'onedl-mmengine', f'onedl-mm{name}'}
        for requirement in map(Requirement, [*extras['all'], *metadata['install_requires']]):
            assert requirement.specifier.contains(pins[requirement.name]), requirement
        assert {*extras['all']} == set().union(*extras.values())

    @pytest.mark.parametrize('pins', ['lock.txt', 'upstream.txt'], indirect=True)
    def test_lock_pins_everything(self, metadata, pins):
        """What the tests need, too; either OpenMMLab. PyTorch before 2.6, from which nothing can
        be exported, goes without what that needs.
        """
        export = {'onnx', 'onnxruntime', 'onnxscript'}
        assert export & set(pins) == (export if Version(pins['torch']) >= Version('2.6') else set())
        assert all(re.fullmatch(r'[\w.]+', version) for version in pins.values())
        needed = [*metadata['extras_require']['tests'], *metadata['install_requires']]
        assert {Requirement(line).name for line in needed} - export <= set(pins)

    def test_frameworks_are_left_to_the_environment(self, metadata):
        """Naming them would let pip change them."""
        names = {Requirement(line).name for line in metadata['install_requires']}
        assert not [name for name in names if re.search('torch|mm|opencv|numpy', name)]
