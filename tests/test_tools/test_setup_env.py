"""The set-up, with the real venv and pip and tiny packages."""

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from importlib.metadata import distribution

import pytest
from tool_runner import ROOT, load_module

SCRIPT = 'tools/misc/setup_env.py'
FILES = ['setup.py', 'pyproject.toml', SCRIPT, 'biformer_mm/version.py']
LOCKS = ['lock.txt', 'upstream.txt']
PYTHON_VERSION = '{}.{}'.format(*sys.version_info)
# Whatever breaks, no test downloads anything.
OFFLINE = {'PIP_CONFIG_FILE': os.devnull, 'PIP_NO_INDEX': '1', 'PIP_NO_COMPILE': '1'}
OPS = 'def nms(*_): pass'
NO_OPS = 'raise ImportError("undefined symbol: c10")'
# Stands in for pip: takes long, and cleans up on Ctrl-C.
SLOW_PIP = """
import os, time
print(os.getpid(), flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    print('cleaned up')
"""


def copy_checkout(root):
    """Copy what the set-up reads. Any Python will do there, and any free disk space."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / 'biformer_mm' / '__init__.py').touch()
    shutil.copytree(ROOT / 'requirements', root / 'requirements')
    edit(root / SCRIPT, "'3.11'", repr(PYTHON_VERSION))
    edit(root / SCRIPT, 'GIB = 2**30', 'GIB = 1')
    return root


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def start(root, *arguments, **variables):
    """Start a set-up of a checkout in a process group of its own."""
    wheels = (root.parent / 'wheels').as_uri()
    return subprocess.Popen(
        [sys.executable, root / SCRIPT, *arguments],
        env={**os.environ, **OFFLINE, 'PIP_FIND_LINKS': wheels, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # A job in the background has SIGINT ignored, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def set_up(root, *arguments, status=0, **variables):
    """Run a set-up; return what it printed."""
    process = start(root, *arguments, **variables)
    output = process.communicate()[0]
    assert process.returncode == status, output
    return output


def environment_of(root, lock='lock.txt'):
    return load_module(root / SCRIPT).Environment(root / '.venv', lock)


def run_python(root, code):
    command = [root / '.venv' / 'bin' / 'python', '-I', '-c', code]
    return subprocess.check_output(command, text=True).strip()


def write_wheel(folder, name, files):
    stem = f'{name.replace("-", "_")}-1'
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: 1\n'
    wheel = 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    info = {'METADATA': metadata, 'WHEEL': wheel, 'RECORD': ''}
    with zipfile.ZipFile(folder / f'{stem}-py3-none-any.whl', 'w') as archive:
        for path, text in {
            **files,
            **{f'{stem}.dist-info/{key}': info[key] for key in info},
        }.items():
            archive.writestr(path, text)


def pack_wheel(folder, name):
    """Pack an installed package again; return its pin."""
    package = distribution(name)
    with zipfile.ZipFile(folder / f'{name}-{package.version}-py3-none-any.whl', 'w') as archive:
        for file in package.files:
            generated = file.suffix == '.pyc' or file.name in ('INSTALLER', 'REQUESTED')
            if not generated and '..' not in file.parts:
                archive.write(file.locate(), file)
    return f'{name}=={package.version}'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A checkout, at a path with a space, after its first set-up; and what that printed."""
    root = copy_checkout(tmp_path_factory.mktemp('setup') / 'my projects' / 'checkout')
    wheels = root.parent / 'wheels'
    wheels.mkdir()
    write_wheel(wheels, 'torch', {'torch.py': 'def rand(*_): pass'})
    for name in ('mmcv', 'onedl-mmcv'):
        write_wheel(wheels, name, {'mmcv/__init__.py': '', 'mmcv/ops.py': OPS})
    for name in ('opencv-python', 'opencv-python-headless'):
        write_wheel(wheels, name, {'cv2.py': f'build = {name!r}'})
    pins = ['opencv-python-headless==1', 'opencv-python==1', 'torch==1']
    # what builds an editable install; before 71, setuptools takes wheel
    pins += [pack_wheel(wheels, name) for name in ('setuptools', 'wheel', 'packaging')]
    for lock, mmcv in zip(LOCKS, ('onedl-mmcv==1', 'mmcv==1')):
        (root / 'requirements' / lock).write_text('\n'.join(['# a comment', mmcv, *pins]))
    return root, set_up(root)


@pytest.fixture
def checkout(finished, tmp_path):
    """A copy of that checkout with a complete environment, to be broken."""
    root = tmp_path / 'my projects' / 'checkout'
    shutil.copytree(finished[0].parent, root.parent, symlinks=True)
    environment = environment_of(root)
    environment.stamp.write_text(environment.fingerprint())
    return root


@pytest.fixture
def venv(checkout):
    return checkout / '.venv'


@pytest.fixture
def site(venv):
    return next(venv.glob('lib/python*/site-packages'))


@pytest.mark.parametrize(
    'change, variables, message',
    [
        ((f'N = {PYTHON_VERSION!r}', "N = '2.9'"), {}, 'need Python 2.9, got Python 3.*make PYTH'),
        (None, {'PATH': '/no/such'}, r'found no c\+\+: .*apt install g\+\+'),
        (None, {'CXX': 'no-such -O2'}, 'found no no-such: .*set CXX'),
        (("sysconfig.get_path('include')", "'/no'"), {}, 'found no /no/Python.h: .*python3.*-dev'),
        # one file system has to hold the sum
        (('GIB = 1\n', 'GIB = 2**60\n'), {}, '12 GiB .*, got 0.0 GiB: .*VENV=.*TMPDIR.*PIP_CACHE'),
        (None, {'VENV': 'tools'}, 'tools holds something else: remove it, or .*make VENV='),
        (None, {'VENV': '/dev/null/inside'}, 'Not a directory|File exists.*/dev/null'),
    ],
)
def test_refusal_is_one_line_and_creates_nothing(tmp_path, change, variables, message):
    root = copy_checkout(tmp_path / 'my projects' / 'checkout')
    if change:
        edit(root / SCRIPT, *change)
    venv = root / variables.pop('VENV', '.venv')
    before = sorted(tmp_path.rglob('*'))
    places = {'TMPDIR': str(tmp_path), 'PIP_CACHE_DIR': str(tmp_path / 'not' / 'there yet')}
    output = set_up(root, '--venv', str(venv), status=1, **places, **variables)
    assert re.fullmatch(f'setup: .*({message}).*\n', output)
    assert sorted(tmp_path.rglob('*')) == before


class TestSteps:
    def test_environment_holds_what_is_pinned(self, finished):
        root, output = finished
        assert 'do not load' not in output
        code = 'import importlib.metadata as m; print(*(m.version(n) for n in {!r}))'
        lock = (root / 'requirements' / 'lock.txt').read_text()
        names, versions = zip(*re.findall('^(.+)==(.+)$', lock, re.MULTILINE))
        assert run_python(root, code.format(names)).split() == list(versions)
        assert run_python(root, 'import cv2; print(cv2.build)') == 'opencv-python-headless'
        code = 'import biformer_mm.version as editable; print(editable.__file__)'
        assert run_python(root, code) == str(root / 'biformer_mm' / 'version.py')

    @pytest.mark.parametrize(
        'name', ['requirements/lock.txt', 'setup.py', 'biformer_mm/version.py']
    )
    def test_changed_file_is_noticed(self, checkout, name):
        assert environment_of(checkout).is_complete()
        with open(checkout / name, 'a') as file:
            file.write('\n# changed\n')
        assert not environment_of(checkout).is_complete()

    def test_second_call_does_nothing(self, checkout):
        (checkout / '.venv.lock').unlink()
        assert set_up(checkout) == '' and not (checkout / '.venv.lock').exists()

    def test_other_lock_is_followed(self, checkout):
        """Also the move of the checkout, to which the editable install did not point yet."""
        assert not environment_of(checkout, 'upstream.txt').is_complete()
        set_up(checkout, '--lock', 'upstream.txt')
        assert environment_of(checkout, 'upstream.txt').is_complete()
        code = (
            'import importlib.metadata as m, biformer_mm as b; m.version("mmcv"); print(b.__file__)'
        )
        assert run_python(checkout, code).startswith(f'{checkout}/')

    def test_pip_fails(self, checkout):
        """Its own message comes first; then the environment is complete by no lock."""
        lock = checkout / 'requirements' / 'lock.txt'
        old = lock.read_text()
        lock.write_text(f'{old}\nnot-there==1')
        output = set_up(checkout, status=1)
        assert re.search('ERROR: .*not-there==1.*\nsetup: pip failed.* continues from here', output)
        lock.write_text(old)
        assert not environment_of(checkout).is_complete()

    @pytest.mark.parametrize('toolkit, devices', [('/no/such', ''), ('/', '0')])
    def test_gpu_without_toolkit_is_hidden(self, checkout, monkeypatch, capfd, toolkit, devices):
        environment = environment_of(checkout)
        monkeypatch.setattr(shutil, 'which', lambda name: None)
        monkeypatch.setenv('CUDA_HOME', toolkit)
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
        environment.run('sh', '-c', 'echo "$CUDA_VISIBLE_DEVICES, $PATH"')
        # ninja, of the environment, comes first
        assert capfd.readouterr().out.startswith(f'{devices}, {environment.path}/bin:')


class TestRepair:
    def test_interrupted_creation(self, checkout, venv, site):
        shutil.rmtree(site / 'pip')
        (venv / 'setup.stamp').write_text('')
        set_up(checkout)
        assert environment_of(checkout).is_complete() and (site / 'pip').exists()

    @pytest.mark.parametrize('base', ['/no/such', '/bin/false'])
    def test_base_that_is_gone_is_noticed(self, checkout, venv, base):
        (venv / 'bin' / 'python').unlink()
        (venv / 'bin' / 'python').symlink_to(base)
        environment = environment_of(checkout)
        assert not environment.runs() and not environment.is_complete()

    def test_unfinished_packages_and_damaged_ops(self, checkout, venv, site):
        """A killed pip leaves no INSTALLER, and what it set aside."""
        (site / 'torch.py').unlink()
        (site / 'torch-1.dist-info' / 'INSTALLER').unlink()
        (site / '~orch-1.dist-info').mkdir()
        (site / 'mmcv' / 'ops.py').write_text(NO_OPS)
        (venv / 'setup.stamp').write_text('unfinished')
        assert 'ImportError: undefined symbol: c10' in set_up(checkout)
        assert (site / 'torch.py').exists() and not list(site.glob('~*'))
        assert (site / 'mmcv' / 'ops.py').read_text() == OPS

    def test_ops_for_another_torch_are_compiled(self, checkout, venv, monkeypatch):
        """The last resort; nothing is compiled here."""
        environment, commands = environment_of(checkout), []
        monkeypatch.setattr(
            environment, 'run', lambda *command, check=True: commands.append(command) or check
        )
        with pytest.raises(SystemExit, match='do not load though compiled'):
            environment.install()
        installs = [command[4:] for command in commands if 'onedl-mmcv==1' in command]
        assert [command.count('--force-reinstall') for command in installs] == [0, 1, 1]
        assert installs[-1][-4:] == ('--no-cache-dir', '--no-binary', 'onedl-mmcv', 'onedl-mmcv==1')
        assert not environment.is_complete()

    @pytest.fixture
    def running(self, checkout, venv, site):
        """A set-up in the middle of a long pip, and that pip's process number."""
        (venv / 'setup.stamp').write_text('unfinished')
        main = site / 'pip' / '__main__.py'
        original = main.read_text()
        main.write_text(SLOW_PIP)
        with start(checkout) as process:
            pid = next(int(line) for line in process.stdout if line.strip().isdigit())
            main.write_text(original)
            yield process, pid
            process.kill()

    def test_interrupt_waits_for_pip_to_clean_up(self, running):
        process, _ = running
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate()[0]
        assert re.fullmatch('cleaned up\nsetup: interrupted; calling again continues.*\n', output)

    @pytest.mark.parametrize('finish', [True, False])
    def test_killed_set_up_is_continued_after_its_orphan(self, running, checkout, venv, finish):
        """Unless it is complete by then."""
        process, orphan = running
        process.kill()
        with start(checkout) as second:
            assert 'is running: waiting for it' in second.stdout.readline()
            assert second.poll() is None and not environment_of(checkout).is_complete()
            if finish:
                (venv / 'setup.stamp').write_text(environment_of(checkout).fingerprint())
            os.kill(orphan, signal.SIGKILL)
            output = second.communicate()[0]
        assert output == '' if finish else output.endswith('\ndone\n')
        assert environment_of(checkout).is_complete()
