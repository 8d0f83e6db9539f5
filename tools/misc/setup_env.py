"""Sets up a tested environment in a virtual environment of the checkout.

``make setup`` and ``make test-upstream`` call this. Standard library only. A
further call repairs what was interrupted or broken, follows a changed lock,
and otherwise does nothing.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PYTHON_VERSION = '3.11'
REPORT_SECONDS = 30
GIB = 2**30
# Measured: the environment takes 5.6 GB; pip unpacks 3 GB of wheels in the
# temporary folder and keeps as much in its cache.
ENVIRONMENT_GIB, TEMPORARY_GIB, CACHE_GIB = 6, 3, 3
# Variables of the caller that would make Python or pip read or write outside
# the environment.
FOREIGN_VARIABLES = (
    'VIRTUAL_ENV',
    'PYTHONPATH',
    'PYTHONHOME',
    'PIP_USER',
    'PIP_TARGET',
    'PIP_PREFIX',
    'PIP_ROOT',
)
SOURCE_BUILD = "mmcv's ops are compiled from source, about 15 minutes on two cores"
USE_OPS = """
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [9., 9., 19., 19.]])
kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist()
assert kept == [0, 2], f'nms kept boxes {kept}, not [0, 2]'
"""


class SetupError(Exception):
    """What is needed, what was found, and the cure."""


def say(message):
    print(message, flush=True)


def read_lock(path):
    """The pinned requirements by package name, in the order of the lock."""
    lines = path.read_text(encoding='utf-8').splitlines()
    pins = filter(None, (line.partition('#')[0].strip() for line in lines))
    return {pin.partition('==')[0]: pin for pin in pins}


# ---- checks: before anything is downloaded or created ----


def check_python():
    if '{}.{}'.format(*sys.version_info) != PYTHON_VERSION:
        raise SetupError(
            f'the tested packages need Python {PYTHON_VERSION}, got Python '
            f'{sys.version.split()[0]} ({sys.executable}): '
            f'point at another one, e.g. make PYTHON=python{PYTHON_VERSION} '
            'setup'
        )
    for module in ('venv', 'ensurepip'):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f'a virtual environment needs the module {module}, which '
                f'{sys.executable} lacks: install it (Debian, Ubuntu: apt '
                f'install python{PYTHON_VERSION}-venv) or point at another '
                f'one, e.g. make PYTHON=/path/to/python{PYTHON_VERSION} setup'
            )


def find_compiler():
    """Path of the C++ compiler: ``$CXX`` if set, else the usual names."""
    chosen = os.environ.get('CXX')
    names = shlex.split(chosen)[:1] if chosen else ['c++', 'g++', 'clang++']
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise SetupError(
            f"a C++ compiler is needed for mmcv's ops, found none as "
            f'{", ".join(names)}'
            f'{" (from $CXX)" if chosen else ""}: install one (Debian, '
            'Ubuntu: apt install g++) or set CXX to yours'
        )
    return chosen or found


def check_disk(path):
    """Adds up what each file system has to hold."""
    cache = (
        os.environ.get('PIP_CACHE_DIR')
        or os.environ.get('XDG_CACHE_HOME')
        or Path.home() / '.cache'
    )
    needed = {}
    for folder, gib in (
        (path, ENVIRONMENT_GIB),
        (Path(tempfile.gettempdir()), TEMPORARY_GIB),
        (Path(cache), CACHE_GIB),
    ):
        existing = next(
            parent for parent in (folder, *folder.absolute().parents) if parent.exists()
        )
        sizes = needed.setdefault(existing.stat().st_dev, (existing, []))[1]
        sizes.append(gib)
    for existing, sizes in needed.values():
        free = shutil.disk_usage(existing).free / GIB
        if free < sum(sizes):
            raise SetupError(
                f'{sum(sizes)} GiB of free disk space are needed on the file '
                f'system of {existing}, got {free:.1f} GiB: '
                'free some, or place the environment (make VENV=...), the '
                'temporary folder (TMPDIR) '
                "or pip's cache (PIP_CACHE_DIR) elsewhere"
            )


def check(environment):
    check_python()
    find_compiler()
    version = environment.version()
    if version is None:
        environment.check_replaceable()
        check_disk(environment.path)
    elif not version.startswith(f'{PYTHON_VERSION}.'):
        raise SetupError(
            f'the environment must hold Python {PYTHON_VERSION}, '
            f'{environment.path} holds {version.split()[0]}: '
            'remove it, or name another place, e.g. make VENV=.venv311 setup'
        )


# ---- the environment ----


class Environment:
    """The virtual environment for the pins of a file in requirements/;
    ``lock`` is the descriptor of the lock while this process changes it.
    """

    def __init__(self, path, pins='lock.txt'):
        self.path = path
        self.pins_file = REPO / 'requirements' / pins
        if not os.path.isfile(self.pins_file):
            raise SetupError(
                f'--lock must be a file in {REPO}/requirements; '
                f'got {pins!r}: leave it out, or name another'
            )
        self.pins = read_lock(self.pins_file)
        # the maintained fork's name, or the original's
        self.mmcv = 'onedl-mmcv' if 'onedl-mmcv' in self.pins else 'mmcv'
        self.python = path / 'bin' / 'python'
        self.log = path / 'setup.log'
        self.stamp = path / 'setup.stamp'
        self.lock = None

    def version(self):
        """Version of its Python; None if Python or pip cannot run there."""
        try:
            code = 'import pip._internal, sys; print(sys.version)'
            result = subprocess.run([self.python, '-I', '-c', code], capture_output=True, text=True)
        except OSError:
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    def fingerprint(self):
        """What a complete set-up depends on.

        The checkout's place counts: the editable install points there.
        """
        files = [
            REPO / 'setup.py',
            REPO / 'biformer_mm' / 'version.py',
            *sorted((REPO / 'requirements').glob('*.txt')),
        ]
        parts = [
            str(self.pins_file),
            str(self.version()),
            *(file.read_text(encoding='utf-8') for file in files),
        ]
        return hashlib.sha256('\0'.join(parts).encode()).hexdigest()

    def is_complete(self):
        return self.stamp.is_file() and self.stamp.read_text() == self.fingerprint()

    def check_replaceable(self):
        """A folder that is not a virtual environment may hold anything: it is
        never replaced.
        """
        ours = (self.path / 'pyvenv.cfg').is_file() or self.log.is_file()
        if self.path.exists() and not ours and (not self.path.is_dir() or any(self.path.iterdir())):
            raise SetupError(
                f'the environment needs a folder of its own, {self.path} '
                'holds something else: remove it, or name another place, e.g. '
                'make VENV=.venv311 setup'
            )

    @contextmanager
    def locked(self):
        """One set-up at a time.

        The file lies beside the environment, which may be replaced as a whole.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(f'{self.path}.lock', 'w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f'another set-up of {self.path} is running: waiting for it')
                fcntl.flock(file, fcntl.LOCK_EX)
            self.lock = file.fileno()
            yield

    def run(self, command, **variables):
        """Runs a command with its output in the log, and says now and then how
        far it is. Returns exit status and output.
        """
        env = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        # ninja is installed in the environment, and looked for on the path
        env.update(
            variables,
            PYTHONUNBUFFERED='1',
            PATH=f'{self.python.parent}{os.pathsep}{env.get("PATH", os.defpath)}',
        )
        start = time.monotonic()
        with open(self.log, 'ab') as log:
            log.write(f'\n$ {shlex.join(map(str, command))}\n'.encode())
            log.flush()
            begin = log.tell()
            # The child inherits the lock: if this process is killed, the next
            # call waits for an orphaned pip to end.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPO,
                env=env,
                start_new_session=True,
                pass_fds=(self.lock,),
            )
        try:
            while True:
                try:
                    return process.wait(REPORT_SECONDS), self.read_log(begin)
                except subprocess.TimeoutExpired:
                    minutes = (time.monotonic() - start) / 60
                    say(f'      {minutes:4.1f} min: {progress(self.read_log(begin))}')
        finally:
            stop(process)

    def read_log(self, begin):
        with open(self.log, 'rb') as log:
            log.seek(begin)
            return log.read().decode(errors='replace')

    def pip(self, *arguments, **variables):
        """Installs exactly what is named: the lock is complete, so there is
        nothing to resolve.
        """
        command = [self.python, '-m', 'pip', 'install', '--no-deps', *arguments]
        status, output = self.run(command, **variables)
        if status:
            raise SetupError(
                f'pip failed with exit status {status}: {last_error(output)} '
                f'(all of it: {self.log}); '
                'once the cause is gone (network, disk space, ...), calling '
                'again continues from here'
            )

    # ---- the steps ----

    def create(self):
        """Creates the environment unless a working one is there."""
        if self.version() is not None:
            self.log.touch()
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self.log.touch()
        # The base interpreter: the one that runs this may live in the
        # environment just removed.
        status, output = self.run([sys._base_executable, '-m', 'venv', self.path])
        if status:
            raise SetupError(
                f'python -m venv failed with exit status {status}: '
                f'{last_error(output)} (all of it: {self.log})'
            )

    def forget_unfinished_packages(self):
        """Removes what an interrupted pip left and would misread later, so
        that it installs those packages again.
        """
        site = next(self.path.glob('lib/python*/site-packages'))
        # INSTALLER is written after a package's files: without it they may be
        # incomplete. ~NAME was set aside by an uninstall.
        unfinished = {
            folder for folder in site.glob('*.dist-info') if not (folder / 'INSTALLER').is_file()
        }
        for folder in unfinished.union(site.glob('~*')):
            shutil.rmtree(folder)

    def install_lock(self):
        """Everything but mmcv, which is compiled against the rest."""
        pins = self.pins.copy()
        del pins[self.mmcv]
        # Both builds of OpenCV are required by others and write to cv2/: the
        # last one stays, and this one needs no libGL.
        headless = pins.pop('opencv-python-headless')
        self.pip(*pins.values())
        self.pip(headless)

    def finds_wheel(self, *options):
        """Whether pip finds a wheel of mmcv, or has installed it."""
        command = [
            self.python,
            '-m',
            'pip',
            'install',
            '--dry-run',
            '--no-deps',
            '--only-binary',
            ':all:',
            *options,
        ]
        return self.run([*command, self.pins[self.mmcv]])[0] == 0

    def announce_source_build(self):
        """Says so if pip will have to compile mmcv, and checks what that needs
        beyond a compiler.
        """
        if self.finds_wheel():
            return
        say(f'      pip finds no wheel of mmcv: {SOURCE_BUILD}')
        header = Path(sysconfig.get_path('include')) / 'Python.h'
        if not header.is_file():
            raise SetupError(
                f"compiling mmcv's ops needs Python's headers, found no "
                f'{header}: '
                f'install them (Debian, Ubuntu: apt install '
                f'python{PYTHON_VERSION}-dev)'
            )

    def install_mmcv(self, *options):
        variables = {
            'MMCV_WITH_OPS': '1',
            'CXX': find_compiler(),
            'MAX_JOBS': os.environ.get('MAX_JOBS', str(len(os.sched_getaffinity(0)))),
        }
        toolkit = (
            os.environ.get('CUDA_HOME') or shutil.which('nvcc') or os.path.exists('/usr/local/cuda')
        )
        if not toolkit and os.environ.get('FORCE_CUDA') != '1':
            # mmcv compiles CUDA ops wherever it sees a GPU, and fails without
            # a toolkit.
            variables['CUDA_VISIBLE_DEVICES'] = ''
        self.pip('-v', '--no-build-isolation', *options, self.pins[self.mmcv], **variables)

    def install_package(self):
        self.pip('--no-build-isolation', '--use-pep517', '--editable', str(REPO))
        status, output = self.run([self.python, '-m', 'pip', 'check'])
        if status:
            raise SetupError(
                f'{self.pins_file} does not fit together: {output.strip().splitlines()[-1]}'
            )

    def why_ops_fail(self):
        """The reason why mmcv's ops cannot be used; None if they can."""
        status, output = self.run([self.python, '-I', '-c', USE_OPS])
        return f'exit status {status}: {last_line(output)}' if status else None

    def verify_ops(self):
        """Uses mmcv's ops.

        A damaged file is cured by installing the wheel again, a wheel for
        another torch only by compiling.
        """
        reason = self.why_ops_fail()
        if reason and self.finds_wheel('--force-reinstall'):
            say(f"      mmcv's ops do not load ({reason}): installing their wheel again")
            self.install_mmcv('--force-reinstall')
            reason = self.why_ops_fail()
        if reason:
            # Neither pip's cache nor a folder of wheels records which torch a
            # wheel was compiled for.
            say(
                f"      mmcv's ops do not load ({reason}), as when compiled "
                f'for another torch: {SOURCE_BUILD}'
            )
            self.install_mmcv('--force-reinstall', '--no-cache-dir', '--no-binary', self.mmcv)
            reason = self.why_ops_fail()
        if reason:
            raise SetupError(
                f"mmcv's ops must load, and do not though compiled here: "
                f'{reason} (all of it: {self.log})'
            )


# ---- output of a running command ----


def progress(output):
    """Where a running command is: ninja's count of files, else pip's last
    step.
    """
    compiled = re.findall(r'^\s*\[(\d+)/(\d+)\] ', output, re.MULTILINE)
    if compiled:
        return '{} of {} files compiled'.format(*compiled[-1])
    return last_line(
        '\n'.join(
            re.findall(
                r'^\s*(?:Collecting|Downloading|Building|Installing|Running) .+',
                output,
                re.MULTILINE,
            )
        )
    )


def last_line(output):
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:100] if lines else 'no output'


def last_error(output):
    errors = re.findall(r'^\s*(?:ERROR|error): (.+)', output, re.MULTILINE)
    return errors[-1] if errors else last_line(output)


def stop(process):
    """Ends a command and its children.

    An interrupt first: pip then removes its temporary files.
    """
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                pass


def set_up(environment):
    """Brings the environment up to date, step by step; each step is quick
    where nothing is left to do.
    """
    if environment.is_complete():
        return
    check(environment)
    with environment.locked():
        if environment.is_complete():  # another call, waited for, has done it
            return
        environment.stamp.unlink(missing_ok=True)
        say(f'[1/5] virtual environment in {environment.path} (log: setup.log in it)')
        environment.create()
        environment.forget_unfinished_packages()
        environment.announce_source_build()
        say('[2/5] installing the tested packages (about 3 GB to download where pip has no cache)')
        environment.install_lock()
        say('[3/5] installing mmcv with its ops')
        environment.install_mmcv()
        say('[4/5] installing biformer_mm, editable')
        environment.install_package()
        say("[5/5] using mmcv's ops")
        environment.verify_ops()
        environment.stamp.write_text(environment.fingerprint())
        say('done')


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=' '.join(__doc__.split('\n\n')[0].split()),
        epilog='example:\n  python tools/misc/setup_env.py --venv .venv',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--venv',
        type=Path,
        default=REPO / '.venv',
        help='folder of the environment (default: .venv in the checkout)',
    )
    parser.add_argument(
        '--lock',
        default='lock.txt',
        help='its packages: a file in requirements/ (default: lock.txt)',
    )
    args = parser.parse_args(arguments)
    # end as on Ctrl-C, with the running command, even in the background
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        set_up(Environment(args.venv.resolve(), args.lock))
    except (SetupError, OSError) as error:  # no permission to write, say
        sys.exit(f'setup: {error}')
    except KeyboardInterrupt:
        sys.exit('setup: interrupted; calling again continues from here')


if __name__ == '__main__':
    main()
