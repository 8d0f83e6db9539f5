"""The set-up: its checks, its steps against a recorded pip, its repairs, and
the files around it (Makefile, .ci/run, setup.py)."""

import fcntl
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.version import Version
from tool_runner import load_module

REPO = Path(__file__).resolve().parents[2]
FILES = ['Makefile', '.ci/run', 'setup.py', 'tools/misc/setup_env.py', 'biformer_mm/version.py']
# Whatever breaks, no test downloads anything.
OFFLINE = {'PIP_CONFIG_FILE': os.devnull, 'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': ''}
LOCKS = ['lock.txt', 'upstream.txt']
FAKE_PYTHON = """#!/bin/sh
[ "$1" = -I ] && echo 3.11.7 && exit
echo "python $* PYTHONPATH=$PYTHONPATH PIP_FIND_LINKS=$PIP_FIND_LINKS"
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of the files that the set-up reads, at a path with a space."""
    root = tmp_path / 'my projects' / 'checkout'
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, root / name)
    shutil.copytree(REPO / 'requirements', root / 'requirements')
    return root


@pytest.fixture
def setup_env(checkout, monkeypatch):
    """The script as a module; whichever Python runs the tests is the right one
    for it, and whatever disk they run on has room."""
    module = load_module(checkout / 'tools' / 'misc' / 'setup_env.py')
    monkeypatch.setattr(module, 'PYTHON_VERSION', '{}.{}'.format(*sys.version_info))
    monkeypatch.setattr(module, 'find_compiler', lambda: '/usr/bin/c++')
    monkeypatch.setattr(module.shutil, 'disk_usage', disk_with(100))
    monkeypatch.setattr(module.signal, 'signal', lambda *_: None)
    return module


def disk_with(gib):
    """Stands in for ``shutil.disk_usage``: every file system has this much
    room."""
    return lambda path: SimpleNamespace(free=gib * 2**30)


def write_python(venv, script=FAKE_PYTHON):
    (venv / 'bin').mkdir(parents=True, exist_ok=True)
    (venv / 'pyvenv.cfg').touch()
    (venv / 'lib' / 'python3.11' / 'site-packages').mkdir(parents=True, exist_ok=True)
    python = venv / 'bin' / 'python'
    python.write_text(script.replace('3.11', '{}.{}'.format(*sys.version_info)))
    python.chmod(0o755)


class FakePip:
    """Stands in for every command of the set-up: records it and answers.

    Args:
        wheel: whether pip finds a wheel of mmcv.
        ops: the exit statuses of using mmcv's ops, in turn.
        interrupt: a word; the first command with it is interrupted, as by
        Ctrl-C.
        error: pip's output when installing the lock, which then fails.
    """

    def __init__(self, wheel=True, ops=(0,), interrupt=None, error=None):
        self.commands, self.variables = [], []
        self.wheel, self.ops, self.interrupt, self.error = wheel, list(ops), interrupt, error

    def __call__(self, environment, command, **variables):
        command = ' '.join(map(str, command[1:]))
        self.commands.append(command)
        self.variables.append(variables)
        if self.interrupt and self.interrupt in command:
            self.interrupt = None
            raise KeyboardInterrupt
        if command.startswith('-m venv'):
            write_python(environment.path)
        if '--dry-run' in command:
            return (0, '') if self.wheel else (1, 'ERROR: No matching distribution found')
        if command.startswith('-I -c'):
            status = self.ops.pop(0)
            error = 'Traceback\nImportError: undefined symbol: c10'
            return status, '' if status == 0 else error
        if self.error and 'torch==' in command:
            return 1, self.error
        return 0, ''

    def installs(self):
        """The installing commands, shortened to what is installed and how."""
        return [
            command.replace('-m pip install ', '')
            for command in self.commands
            if command.startswith('-m pip install') and '--dry-run' not in command
        ]


@pytest.fixture
def use_pip(setup_env, monkeypatch):

    def use(**answers):
        fake = FakePip(**answers)
        monkeypatch.setattr(
            setup_env.Environment,
            'run',
            lambda self, command, **variables: fake(self, command, **variables),
        )
        return fake

    return use


@pytest.fixture
def venv(checkout):
    return checkout / '.venv'


@pytest.fixture
def failure(setup_env, use_pip, venv):
    """Runs a set-up that a check has to refuse; returns its message. Nothing
    may be created or run."""

    def run():
        pip = use_pip()
        before = sorted(venv.parent.rglob('*'))
        with pytest.raises(SystemExit) as caught:
            setup_env.main(['--venv', str(venv)])
        assert sorted(venv.parent.rglob('*')) == before and not pip.commands
        assert caught.value.code.startswith('setup: ') and '\n' not in caught.value.code
        return caught.value.code

    return run


class TestChecks:
    def test_other_python(self, setup_env, failure, monkeypatch):
        monkeypatch.setattr(setup_env, 'PYTHON_VERSION', '2.9')
        message = failure()
        assert 'need Python 2.9' in message
        assert f'got Python {sys.version.split()[0]}' in message
        assert 'make PYTHON=python2.9 setup' in message

    @pytest.mark.parametrize('module', ['venv', 'ensurepip'])
    def test_module_missing(self, setup_env, failure, monkeypatch, module):
        monkeypatch.setattr(
            setup_env.importlib.util, 'find_spec', lambda name: None if name == module else name
        )
        assert re.search(f'needs the module {module}, .*apt install python.*-venv', failure())

    @pytest.mark.parametrize(
        'variables, found',
        [
            ({}, r'found none as c\+\+, g\+\+, clang\+\+:'),
            ({'CXX': 'no-such -O2'}, r'found none as no-such \(from \$CXX\):'),
        ],
    )
    def test_no_compiler(self, checkout, venv, variables, found):
        """For real: the script in an environment whose PATH leads nowhere."""
        script = checkout / 'tools' / 'misc' / 'setup_env.py'
        version = '{}.{}'.format(*sys.version_info)
        script.write_text(
            script.read_text().replace("PYTHON_VERSION = '3.11'", f"PYTHON_VERSION = '{version}'")
        )
        variables = {**OFFLINE, 'PATH': str(checkout), **variables}
        result = subprocess.run(
            [sys.executable, str(script)], env=variables, capture_output=True, text=True
        )
        assert result.returncode == 1 and result.stdout == ''
        assert re.fullmatch(
            r'setup: a C\+\+ compiler is needed .*, '
            rf'{found} .*apt install g\+\+.*\n',
            result.stderr,
        )
        assert not venv.exists() and not Path(f'{venv}.lock').exists()

    def test_disk_too_small(self, setup_env, failure, venv, monkeypatch):
        # one file system has to hold the sum; it would do for each alone
        monkeypatch.setattr(setup_env.tempfile, 'gettempdir', lambda: str(venv.parent))
        monkeypatch.setenv('PIP_CACHE_DIR', str(venv.parent / 'not' / 'there yet'))
        monkeypatch.setattr(setup_env.shutil, 'disk_usage', disk_with(11))
        assert re.search(
            r'12 GiB of free disk space are needed .*, got 11.0 GiB: '
            '.*VENV=.*TMPDIR.*PIP_CACHE_DIR',
            failure(),
        )
        monkeypatch.setattr(setup_env.shutil, 'disk_usage', disk_with(13))
        setup_env.main(['--venv', str(venv)])

    def test_folder_of_something_else(self, failure, venv):
        venv.mkdir()
        (venv / 'thesis.tex').touch()
        assert 'holds something else' in failure()

    def test_environment_of_another_python(self, failure, venv):
        write_python(venv, '#!/bin/sh\necho 2.9.1')
        assert f'{venv} holds 2.9.1' in failure()

    def test_place_that_cannot_be_made(self, failure, venv):
        venv.symlink_to('/dev/null/inside')
        assert '/dev/null' in failure()

    def test_no_headers(self, setup_env, use_pip, venv, monkeypatch):
        """Said before the large download, and only if something has to be
        compiled."""
        monkeypatch.setattr(setup_env.sysconfig, 'get_path', lambda name: '/no/such')
        pip = use_pip(wheel=False)
        with pytest.raises(SystemExit, match='found no /no/such/Python.h: .*-dev'):
            setup_env.main(['--venv', str(venv)])
        assert not pip.installs()
        use_pip(wheel=True)
        setup_env.main(['--venv', str(venv)])


class TestSteps:
    @pytest.mark.parametrize(
        'name, prefix, detection',
        [('lock.txt', 'onedl-', 'onedl-mmdetection'), ('upstream.txt', '', 'mmdet')],
    )
    def test_order(self, setup_env, use_pip, venv, name, prefix, detection):
        pip = use_pip()
        setup_env.main(['--venv', str(venv), '--lock', name])
        lock, headless, mmcv, package = pip.installs()
        assert ' torch==' in lock and f' {detection}==' in lock
        assert 'mmcv' not in lock
        assert headless.startswith('--no-deps opencv-python-headless==') and 'headless' not in lock
        assert f' {prefix}mmcv==' in mmcv and '--no-build-isolation' in mmcv
        assert package.endswith(f'--editable {venv.parent}') and '--no-build-isolation' in package
        assert all('--no-deps' in command for command in pip.installs())
        assert pip.commands[-2:] == ['-m pip check', f'-I -c {setup_env.USE_OPS}']
        variables = next(v for v in pip.variables if v)
        assert variables['MMCV_WITH_OPS'] == '1' and variables['CXX'] == '/usr/bin/c++'
        assert int(variables['MAX_JOBS']) == len(os.sched_getaffinity(0))

    @pytest.mark.parametrize('name', LOCKS)
    def test_every_pin_is_installed_once(self, setup_env, use_pip, venv, name):
        pip = use_pip()
        setup_env.main(['--venv', str(venv), '--lock', name])
        text = (venv.parent / 'requirements' / name).read_text()
        assert sorted(
            word for command in pip.installs() for word in command.split() if '==' in word
        ) == sorted(re.findall('^[^#].*$', text, re.MULTILINE))

    @pytest.mark.parametrize('wheel', [True, False])
    def test_source_build_is_announced(self, setup_env, use_pip, venv, capsys, wheel):
        use_pip(wheel=wheel)
        setup_env.main(['--venv', str(venv)])
        before_download = capsys.readouterr().out.partition('[2/5]')[0]
        assert ('compiled from source, about 15 minutes' in before_download) is not wheel

    @pytest.mark.parametrize(
        'toolkit, force, hidden', [(False, '0', True), (False, '1', False), (True, '0', False)]
    )
    def test_gpu_without_toolkit_is_hidden(
        self, setup_env, use_pip, venv, monkeypatch, toolkit, force, hidden
    ):
        monkeypatch.setenv('FORCE_CUDA', force)
        monkeypatch.setenv('CUDA_HOME', '/opt/cuda' if toolkit else '')
        monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
        monkeypatch.setattr(setup_env.os.path, 'exists', lambda path: False)
        pip = use_pip()
        environment = setup_env.Environment(venv)
        environment.install_mmcv()
        assert ('CUDA_VISIBLE_DEVICES' in pip.variables[0]) is hidden

    def test_pip_fails(self, setup_env, use_pip, venv):
        use_pip(
            error='Collecting torch\nERROR: Could not fetch URL: connection '
            'refused\nWARNING: a new release of pip'
        )
        with pytest.raises(
            SystemExit,
            match='pip failed .*Could not fetch URL: connection refused .*calling again continues',
        ):
            setup_env.main(['--venv', str(venv)])
        assert not (venv / 'setup.stamp').exists()


class TestRepair:
    def test_second_call_runs_nothing(self, setup_env, use_pip, venv, capsys):
        use_pip()
        setup_env.main(['--venv', str(venv)])
        capsys.readouterr()
        pip = use_pip()
        setup_env.main(['--venv', str(venv)])
        assert not pip.commands and capsys.readouterr().out == ''

    @pytest.mark.parametrize(
        'name',
        ['requirements/lock.txt', 'requirements/runtime.txt', 'setup.py', 'biformer_mm/version.py'],
    )
    def test_change_is_followed(self, setup_env, use_pip, checkout, venv, name):
        use_pip()
        setup_env.main(['--venv', str(venv)])
        with open(checkout / name, 'a') as file:
            file.write('\n# changed\n')
        pip = use_pip()
        setup_env.main(['--venv', str(venv)])
        assert len(pip.installs()) == 4 and not any(
            command.startswith('-m venv') for command in pip.commands
        )

    def test_other_lock_is_followed(self, setup_env, use_pip, venv):
        use_pip()
        setup_env.main(['--venv', str(venv)])
        pip = use_pip()
        setup_env.main(['--venv', str(venv), '--lock', 'upstream.txt'])
        assert any(' mmcv==' in command for command in pip.installs())

    def test_moved_checkout_is_followed(self, setup_env, use_pip, checkout, venv, monkeypatch):
        """The editable install points to the old place."""
        use_pip()
        setup_env.main(['--venv', str(venv)])
        moved = checkout.rename(checkout.parent / 'moved')
        monkeypatch.setattr(setup_env, 'REPO', moved)
        pip = use_pip()
        setup_env.main(['--venv', str(moved / '.venv')])
        assert pip.installs()[-1].endswith(f'--editable {moved}')

    @pytest.mark.parametrize(
        'step',
        ['-m venv', '--dry-run', 'torch==', 'onedl-mmcv==', '--editable', 'pip check', '-I -c'],
    )
    def test_interrupted(self, setup_env, use_pip, venv, step):
        use_pip(interrupt=step)
        with pytest.raises(SystemExit, match='interrupted; calling again continues'):
            setup_env.main(['--venv', str(venv)])
        assert not (venv / 'setup.stamp').exists()
        pip = use_pip()
        setup_env.main(['--venv', str(venv)])
        assert pip.commands[0].startswith('-m venv') is (step == '-m venv')
        assert len(pip.installs()) == 4 and (venv / 'setup.stamp').exists()

    def test_interrupted_update_is_not_complete_under_the_old_lock(
        self, setup_env, use_pip, checkout, venv
    ):
        use_pip()
        setup_env.main(['--venv', str(venv)])
        lock = checkout / 'requirements' / 'lock.txt'
        old = lock.read_text()
        lock.write_text(old + 'extra==1\n')
        use_pip(interrupt='torch==')
        with pytest.raises(SystemExit):
            setup_env.main(['--venv', str(venv)])
        lock.write_text(old)
        pip = use_pip()
        setup_env.main(['--venv', str(venv)])
        assert len(pip.installs()) == 4

    @pytest.mark.parametrize(
        'script',
        [None, '#!/no/such/interpreter', '#!/bin/sh\necho No module named pip >&2\nexit 1'],
    )
    def test_broken_environment_is_replaced(self, setup_env, use_pip, venv, script):
        use_pip()
        setup_env.main(['--venv', str(venv)])
        python = venv / 'bin' / 'python'
        python.unlink() if script is None else python.write_text(script)
        (venv / 'left over').touch()
        pip = use_pip()
        setup_env.main(['--venv', str(venv)])
        assert pip.commands[0] == f'-m venv {venv}' and len(pip.installs()) == 4
        assert not (venv / 'left over').exists()

    def test_unfinished_packages_are_forgotten(self, setup_env, use_pip, venv):
        write_python(venv)
        site = next(venv.glob('lib/*/site-packages'))
        for name in ('whole-1.dist-info', 'half-1.dist-info', '~et_aside-1.dist-info'):
            (site / name).mkdir()
            (site / name / 'METADATA').touch()
        (site / 'whole-1.dist-info' / 'INSTALLER').touch()
        use_pip()
        setup_env.main(['--venv', str(venv)])
        assert [path.name for path in site.iterdir()] == ['whole-1.dist-info']

    def test_damaged_ops_take_the_wheel_again(self, setup_env, use_pip, venv, capsys):
        pip = use_pip(ops=(1, 0))
        setup_env.main(['--venv', str(venv)])
        assert len(pip.installs()) == 5
        assert '--force-reinstall' in pip.installs()[-1] and '--no-binary' not in pip.installs()[-1]
        assert 'ImportError: undefined symbol: c10' in capsys.readouterr().out

    @pytest.mark.parametrize('wheel, ops', [(True, (1, 1, 0)), (False, (1, 0))])
    @pytest.mark.parametrize('lock, mmcv', [('lock.txt', 'onedl-mmcv'), ('upstream.txt', 'mmcv')])
    def test_ops_for_another_torch_are_compiled_afresh(
        self, setup_env, use_pip, venv, capsys, lock, mmcv, wheel, ops
    ):
        pip = use_pip(wheel=wheel, ops=ops)
        setup_env.main(['--venv', str(venv), '--lock', lock])
        last = pip.installs()[-1].split()
        assert {'--force-reinstall', '--no-cache-dir', '--no-deps', '--no-build-isolation'} < set(
            last
        )
        assert last[last.index('--no-binary') + 1] == mmcv
        assert 'compiled for another torch' in capsys.readouterr().out
        assert (venv / 'setup.stamp').exists()

    def test_ops_never_load(self, setup_env, use_pip, venv):
        use_pip(ops=(1, 1, 1))
        with pytest.raises(
            SystemExit, match="mmcv's ops must load, .*ImportError: undefined symbol: c10"
        ):
            setup_env.main(['--venv', str(venv)])
        assert not (venv / 'setup.stamp').exists()


@pytest.fixture
def environment(setup_env, venv):
    """An environment in which commands run for real."""
    write_python(venv)
    environment = setup_env.Environment(venv)
    environment.log.touch()
    return environment


class TestCommands:
    def test_variables(self, environment, monkeypatch):
        """The caller's Python settings stay outside, pip's index and wheels go
        through."""
        for name in ('VIRTUAL_ENV', 'PYTHONPATH', 'PIP_TARGET', 'PIP_INDEX_URL', 'PIP_FIND_LINKS'):
            monkeypatch.setenv(name, '/from caller')
        with environment.locked():
            status, output = environment.run(['env'], MMCV_WITH_OPS='1')
        variables = dict(line.split('=', 1) for line in output.splitlines() if '=' in line)
        assert status == 0 and variables['MMCV_WITH_OPS'] == '1'
        assert variables['PIP_INDEX_URL'] == variables['PIP_FIND_LINKS'] == '/from caller'
        assert not {'VIRTUAL_ENV', 'PYTHONPATH', 'PIP_TARGET'} & set(variables)
        assert variables['PATH'].startswith(f'{environment.path / "bin"}:')  # ninja is there

    def test_progress(self, setup_env, environment, monkeypatch, capsys):
        monkeypatch.setattr(setup_env, 'REPORT_SECONDS', 0.2)
        with environment.locked():
            environment.run(
                [
                    'sh',
                    '-c',
                    'echo "  Building wheel for mmcv"; sleep 0.3; echo "  '
                    '[37/120] c++ -c nms.cpp"; sleep 0.3',
                ]
            )
        assert re.search(
            r'min: Building wheel for mmcv\n.*min: 37 of 120 files compiled\n',
            capsys.readouterr().out,
        )
        assert '[37/120] c++' in environment.log.read_text()

    def test_interrupt_ends_the_command_and_its_children(self, setup_env, environment, monkeypatch):

        def interrupt(message):
            raise KeyboardInterrupt

        monkeypatch.setattr(setup_env, 'REPORT_SECONDS', 0.3)
        monkeypatch.setattr(setup_env, 'say', interrupt)
        with environment.locked(), pytest.raises(KeyboardInterrupt):
            environment.run(
                [sys.executable, '-c', 'import os, time; print(os.getpid()); time.sleep(60)']
            )
        child = int(re.search(r'^\d+$', environment.log.read_text(), re.MULTILINE).group())
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)

    def test_one_at_a_time(self, setup_env, environment, monkeypatch):
        said = threading.Event()
        monkeypatch.setattr(
            setup_env, 'say', lambda message: said.set() if 'waiting' in message else None
        )
        entered = threading.Event()

        def second():
            with setup_env.Environment(environment.path).locked():
                entered.set()

        thread = threading.Thread(target=second)
        with environment.locked():
            thread.start()
            assert said.wait(5) and not entered.is_set()
        thread.join(5)
        assert entered.is_set()

    def test_orphan_keeps_the_lock(self, environment):
        with environment.locked():
            output = environment.run(['sh', '-c', 'sleep 60 & echo $!'])[1]
        with open(f'{environment.path}.lock') as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(int(output), signal.SIGKILL)


def write_wheel(folder, name, version, files):
    module = f'{name.replace("-", "_")}-{version}'
    info = {
        'METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
        'WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
        'RECORD': '',
    }
    with zipfile.ZipFile(folder / f'{module}-py3-none-any.whl', 'w') as archive:
        for path, text in {
            **files,
            **{f'{module}.dist-info/{path}': text for path, text in info.items()},
        }.items():
            archive.writestr(path, text)


def pack_wheel(folder, name):
    """Packs an installed package again; returns its pin."""
    package = distribution(name)
    with zipfile.ZipFile(folder / f'{name}-{package.version}-py3-none-any.whl', 'w') as archive:
        for file in package.files:
            if (
                file.suffix not in ('.pyc', '.exe')
                and file.name not in ('INSTALLER', 'REQUESTED')
                and '..' not in file.parts
            ):
                archive.write(file.locate(), file)
    return f'{name}=={package.version}'


def test_with_real_pip(setup_env, checkout, venv, tmp_path, monkeypatch, capsys):
    """venv and pip for real, with tiny packages from a folder; then a file of
    mmcv's ops is damaged."""
    wheels = tmp_path / 'wheels'
    wheels.mkdir()
    ops = (
        'class List(list):\n    tolist = list.copy\n\n\n'
        'def nms(*_):\n    return None, List([0, 2])\n'
    )
    write_wheel(wheels, 'torch', '1', {'torch.py': 'tensor = list\n'})
    write_wheel(wheels, 'onedl-mmcv', '1', {'mmcv/ops.py': ops})
    write_wheel(wheels, 'opencv-python-headless', '1', {})
    pins = [
        'torch==1',
        'onedl-mmcv==1',
        'opencv-python-headless==1',
        # what builds an editable install; before 71, setuptools takes wheel
        *(pack_wheel(wheels, name) for name in ('setuptools', 'wheel', 'packaging')),
    ]
    (checkout / 'requirements' / 'lock.txt').write_text('\n'.join(pins))
    (checkout / 'biformer_mm' / '__init__.py').touch()
    for name, value in {
        **OFFLINE,
        'PIP_NO_COMPILE': '1',
        'PIP_FIND_LINKS': wheels.as_uri(),
    }.items():
        monkeypatch.setenv(name, value)

    setup_env.main(['--venv', str(venv)])
    assert 'do not load' not in capsys.readouterr().out
    code = 'import biformer_mm.version as module; print(module.__file__)'
    imported = subprocess.run(
        [venv / 'bin' / 'python', '-I', '-c', code], capture_output=True, text=True
    ).stdout
    assert imported.strip() == str(checkout / 'biformer_mm' / 'version.py')

    next(venv.glob('lib/*/site-packages/mmcv/ops.py')).write_text('raise ImportError("damaged")')
    environment = setup_env.Environment(venv)
    with environment.locked():
        environment.verify_ops()
        assert environment.why_ops_fail() is None
    out = capsys.readouterr().out
    assert 'ImportError: damaged): installing their wheel again' in out

    assert environment.version() == sys.version
    shutil.rmtree(next(venv.glob('lib/*/site-packages/pip')))
    assert environment.version() is None


class TestAroundIt:
    """Makefile, .ci/run and setup.py, with a fake Python in a complete
    environment."""

    @pytest.fixture(autouse=True)
    def complete(self, environment, setup_env):
        self.setup_env = setup_env
        environment.log.unlink()
        environment.stamp.write_text(environment.fingerprint())

    @staticmethod
    def call(checkout, *command, **variables):
        # not the variables of the make that may be running these tests
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith('MAKE')
        }
        variables = {**inherited, **OFFLINE, 'PYTHON': sys.executable, **variables}
        result = subprocess.run(
            command, cwd=checkout, env=variables, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def test_make_setup_again_does_nothing(self, checkout, venv):
        assert self.call(checkout, 'make', 'setup') == ''
        assert not (venv / 'setup.log').exists() and not Path(f'{venv}.lock').exists()

    @pytest.mark.parametrize(
        'target, command', [('test', '-m pytest'), ('demo', 'tools/demo.py retinanet')]
    )
    def test_make_uses_the_environment(self, checkout, target, command):
        assert f'python {command} PYTHONPATH= PIP' in self.call(
            checkout, 'make', target, PYTHONPATH='/other'
        )

    def test_make_test_all_runs_the_second_tier_last(self, checkout, venv):
        """What that needs is installed once, beside the environment."""
        own = f'{venv}.second-tier'
        pip = (
            'python -m pip install --quiet --no-deps --no-build-isolation '
            '--target .venv.second-tier -r requirements/second_tier.txt'
        )
        first, second = (
            'python -m pytest PYTHONPATH= ',
            f'python -m pytest -m slow PYTHONPATH={own} ',
        )
        for expected in ((first, pip, second), (first, second)):
            said = re.findall('^python .*', self.call(checkout, 'make', 'test-all'), re.MULTILINE)
            assert len(said) == len(expected), said
            for line, start in zip(said, expected):
                assert line.startswith(start)
        self.call(checkout, 'make', 'distclean')
        assert not Path(own).exists()

    def test_make_test_upstream_has_its_own(self, checkout, venv):
        upstream = f'{venv}-upstream'
        shutil.copytree(venv, upstream)
        environment = self.setup_env.Environment(Path(upstream), LOCKS[1])
        environment.stamp.write_text(environment.fingerprint())
        (venv / 'bin' / 'python').write_text('#!/bin/sh\nexit 1')
        assert 'python -m pytest' in self.call(checkout, 'make', 'test-upstream')

    def test_make_alone_helps(self, checkout):
        assert {'setup', 'test', 'test-all', 'test-upstream', 'demo', 'clean', 'distclean'} <= set(
            re.findall(r'^make ([\w-]+)', self.call(checkout, 'make'), re.MULTILINE)
        )

    def test_make_clean_keeps_the_environment(self, checkout, venv):
        cache = checkout / 'tools' / '__pycache__'
        cache.mkdir()
        upstream = Path(f'{venv}-upstream')
        inside = [path / 'lib' / '__pycache__' for path in (venv, upstream)]
        for path in inside:
            path.mkdir(parents=True)
        self.call(checkout, 'make', 'clean')
        assert not cache.exists() and all(path.exists() for path in inside)
        self.call(checkout, 'make', 'distclean')
        assert not venv.exists() and not upstream.exists()

    def test_ci_adds_the_wheels_beside_the_checkout(self, checkout):
        run = str(checkout / '.ci' / 'run')
        browser = checkout.parent / 'bin' / 'chromium'  # so none is installed
        browser.parent.mkdir(exist_ok=True)
        browser.touch(mode=0o755)
        path = f'{browser.parent}:{os.environ["PATH"]}'
        assert 'PIP_FIND_LINKS=/mine\n' in self.call('/', run, PATH=path, PIP_FIND_LINKS='/mine')
        wheels = checkout.parent / 'shared' / 'wheels'
        wheels.mkdir(parents=True)
        # as a URL: pip splits the list at spaces, and this path has one
        assert f'PIP_FIND_LINKS=/mine {wheels.as_uri()}\n' in self.call(
            '/', run, PATH=path, PIP_FIND_LINKS='/mine'
        )
        assert f'PIP_FIND_LINKS={wheels.as_uri()}\n' in self.call(
            '/', run, PATH=path, PIP_FIND_LINKS=''
        )


@pytest.fixture
def metadata(checkout, monkeypatch):
    """Calls setup.py where torch cannot be imported; returns a function giving
    its arguments."""

    def read():
        arguments = {}
        monkeypatch.setitem(sys.modules, 'torch', None)
        monkeypatch.chdir(checkout)
        monkeypatch.setattr(setuptools, 'setup', lambda **given: arguments.update(given))
        runpy.run_path(str(checkout / 'setup.py'))
        return arguments

    return read


class TestMetadata:
    def test_nothing_is_required(self, metadata):
        assert metadata()['name'] == 'biformer_mm'
        assert metadata()['install_requires'] == []

    def test_version_is_read_from_the_package(self, metadata, checkout):
        (checkout / 'biformer_mm' / 'version.py').write_text("__version__ = '9.8.7'\n")
        assert metadata()['version'] == '9.8.7'

    def test_readme_is_used_if_there(self, metadata, checkout):
        assert metadata()['long_description'] == ''
        (checkout / 'README.md').write_text('# Title')
        assert metadata()['long_description'] == '# Title'

    def test_extras_hold_the_tested_versions(self, metadata, setup_env, checkout):
        extras = metadata()['extras_require']
        assert set(extras) == {'det', 'seg', 'cls', 'coco', 'optional', 'tests', 'all'}
        pins = {
            name: pin.partition('==')[2]
            for name, pin in setup_env.read_lock(checkout / 'requirements' / 'lock.txt').items()
        }
        for extra, framework in (
            ('det', 'onedl-mmdetection'),
            ('seg', 'onedl-mmsegmentation'),
            ('cls', 'onedl-mmpretrain'),
        ):
            assert {Requirement(line).name for line in extras[extra]} == {
                'onedl-mmcv',
                'onedl-mmengine',
                framework,
            }
        for requirement in map(Requirement, extras['all']):
            assert requirement.specifier.contains(pins[requirement.name]), requirement
        assert set(extras['all']) == set().union(*extras.values())

    @pytest.mark.parametrize('name', LOCKS)
    def test_lock_pins_everything(self, setup_env, metadata, checkout, name):
        """What the tests need, too; either OpenMMLab. PyTorch before 2.6, from
        which nothing can be exported, goes without what that needs."""
        pins = setup_env.read_lock(checkout / 'requirements' / name)
        export = {'onnx', 'onnxruntime', 'onnxscript'}
        exports = Version(pins['torch'].partition('==')[2]) >= Version('2.6')
        assert export & set(pins) == (export if exports else set())
        assert all(re.fullmatch(r'[\w.-]+==[\w.]+', pin) for pin in pins.values())
        assert {
            Requirement(line).name for line in metadata()['extras_require']['tests']
        } - export <= set(pins)
