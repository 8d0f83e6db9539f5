"""Create or repair the tested environment of this checkout.

``make setup`` and ``make test-upstream`` call this. It needs only the standard library. Another
call continues an interrupted set-up, follows a changed lock, and otherwise does nothing.
"""

import argparse
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PYTHON_VERSION = '3.11'
GIB = 2**30
# Measured: the environment takes 5.6 GB; pip unpacks 3 GB of wheels in the temporary folder and
# keeps as much in its cache.
ENVIRONMENT_GIB, TEMPORARY_GIB, CACHE_GIB = 6, 3, 3
USE_OPS = 'import torch, mmcv.ops; mmcv.ops.nms(torch.rand(9, 4), torch.rand(9), 0.5)'


def check_tools() -> None:
    """Refuse another Python version, and a machine that cannot compile."""
    if not sys.version.startswith(f'{PYTHON_VERSION}.'):
        sys.exit(
            f'setup: the tested packages need Python {PYTHON_VERSION}, got Python '
            f'{sys.version.split()[0]} ({sys.executable}): '
            f'choose another one, e.g. make PYTHON=python{PYTHON_VERSION} setup'
        )
    compiler = shlex.split(os.environ.get('CXX') or 'c++')[0]
    header = Path(sysconfig.get_path('include'), 'Python.h')
    for name, found in ((compiler, shutil.which(compiler)), (header, header.is_file())):
        if not found:
            sys.exit(
                "setup: mmcv's ops and torch.compile need a C++ compiler and Python's headers, "
                f'found no {name}: install them (Debian, Ubuntu: apt install g++ '
                f'python{PYTHON_VERSION}-dev) or set CXX to your compiler'
            )


def check_disk(venv: Path) -> None:
    """Refuse a file system that is too small for all that it has to hold."""
    cache = os.environ.get('PIP_CACHE_DIR') or Path.home() / '.cache'
    folders = {venv: ENVIRONMENT_GIB, tempfile.gettempdir(): TEMPORARY_GIB, cache: CACHE_GIB}
    needed = {}
    for folder, gib in folders.items():
        path = Path(folder).absolute()
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        needed.setdefault(existing.stat().st_dev, [existing, 0])[1] += gib
    for existing, gib in needed.values():
        free = shutil.disk_usage(existing).free / GIB
        if free < gib:
            sys.exit(
                f'setup: {gib} GiB of free disk space are needed on the file system of {existing}, '
                f'got {free:.1f} GiB: free some, or place the environment (make VENV=...), the '
                "temporary folder (TMPDIR) or pip's cache (PIP_CACHE_DIR) elsewhere"
            )


class Environment:
    """A virtual environment and the packages that belong in it.

    Args:
        path: Its folder.
        lock: A file in requirements/ that pins every package.
    """

    def __init__(self, path: Path, lock: str) -> None:
        self.path = path
        self.python = path / 'bin' / 'python'
        # Empty until Python and pip are there, then 'unfinished', then the fingerprint.
        self.stamp = path / 'setup.stamp'
        self.lock = REPO / 'requirements' / lock
        if not self.lock.is_file():
            sys.exit(f'setup: --lock must name a file in {REPO}/requirements, got {lock!r}')
        lines = self.lock.read_text(encoding='utf-8').splitlines()
        self.pins = [line for line in lines if line and not line.startswith('#')]

    def read_stamp(self) -> str:
        """Return what the stamp says; '' if there is none."""
        return self.stamp.read_text() if self.stamp.exists() else ''

    def fingerprint(self) -> str:
        """Hash what a set-up depends on; the editable install points at the checkout's place."""
        files = [REPO / 'setup.py', REPO / 'biformer_mm' / 'version.py']
        files += sorted((REPO / 'requirements').glob('*.txt'))
        parts = [str(self.lock), *(file.read_text(encoding='utf-8') for file in files)]
        return hashlib.sha256('\0'.join(parts).encode()).hexdigest()

    def runs(self) -> bool:
        """Return whether the right Python runs there; its base may be gone since."""
        code = f'import sys; sys.exit(not sys.version.startswith("{PYTHON_VERSION}."))'
        return self.python.exists() and subprocess.call([self.python, '-I', '-c', code]) == 0

    def is_complete(self) -> bool:
        """Return whether nothing is left to do."""
        return self.read_stamp() == self.fingerprint() and self.runs()

    def set_up(self) -> None:
        """Bring the environment up to date."""
        if self.is_complete():
            return
        check_tools()
        if not self.stamp.exists():
            if self.path.exists() and any(self.path.iterdir()):
                sys.exit(
                    f'setup: the environment needs a folder of its own, {self.path} holds '
                    'something else: remove it, or choose another, e.g. make VENV=.venv311 setup'
                )
            check_disk(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Child processes inherit the lock: if this one is killed, the next set-up waits for an
        # orphaned pip to end.
        with open(f'{self.path}.lock', 'w') as file:
            os.set_inheritable(file.fileno(), True)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f'another set-up of {self.path} is running: waiting for it')
                fcntl.flock(file, fcntl.LOCK_EX)
            if not self.is_complete():
                self.install()

    def install(self) -> None:
        """Install step by step; a step that was done before is quick."""
        if not self.read_stamp() or not self.runs():
            print(f'[1/4] creating {self.path}')
            self.path.mkdir(exist_ok=True)
            self.stamp.write_text('')
            for folder in ('bin', 'lib'):
                shutil.rmtree(self.path / folder, ignore_errors=True)
            self.run(sys.executable, '-m', 'venv', self.path)
        self.stamp.write_text('unfinished')
        self.forget_unfinished_packages()

        print('[2/4] installing the tested packages (3 GB to download where pip has no cache)')
        mmcv = next(pin for pin in self.pins if pin.startswith(('mmcv==', 'onedl-mmcv==')))
        # Both builds of OpenCV write to cv2/: the last one stays, and this one needs no libGL.
        headless = next(pin for pin in self.pins if pin.startswith('opencv-python-headless=='))
        self.pip_install(*(pin for pin in self.pins if pin not in (mmcv, headless)))
        self.pip_install(headless)

        print('[3/4] installing mmcv (about 15 minutes on two cores where its ops are compiled)')
        # A wheel, and what is installed already, may be compiled for another torch.
        again = '--force-reinstall'
        compiled = (again, '--no-cache-dir', '--no-binary', mmcv.partition('==')[0])
        for options in ((), (again,), compiled):
            self.pip_install('--no-build-isolation', *options, mmcv)
            if self.run(self.python, '-I', '-c', USE_OPS, check=False):
                break
            print("mmcv's ops do not load, as when compiled for another torch")
        else:
            sys.exit("setup: mmcv's ops do not load though compiled here, the reason is above")

        print('[4/4] installing biformer_mm, editable')
        self.pip_install('--no-build-isolation', '--editable', str(REPO))
        self.stamp.write_text(self.fingerprint())
        print('done')

    def run(self, *command, check: bool = True) -> bool:
        """Run a command in the checkout; return whether it succeeds, or exit if it must."""
        # ninja is in the environment, and looked for on the path
        env = {**os.environ, 'MMCV_WITH_OPS': '1', 'PATH': f'{self.path}/bin:{os.environ["PATH"]}'}
        if not (shutil.which('nvcc') or os.path.exists(env.get('CUDA_HOME', '/usr/local/cuda'))):
            # mmcv compiles CUDA ops wherever it sees a GPU, and fails without a toolkit.
            env['CUDA_VISIBLE_DEVICES'] = ''
        process = subprocess.Popen(command, cwd=REPO, env=env, close_fds=False)
        try:
            process.wait()
        finally:  # Ctrl-C reaches pip too, which then removes its temporary files
            process.wait()
        if check and process.returncode:
            sys.exit(
                f'setup: {command[2]} failed, its message is above; once the cause is gone '
                '(network, disk space, ...), calling again continues from here'
            )
        return process.returncode == 0

    def pip_install(self, *arguments: str) -> None:
        """Install exactly what is named: the lock is complete, nothing is to be resolved."""
        self.run(self.python, '-m', 'pip', 'install', '--no-deps', *arguments)

    def forget_unfinished_packages(self) -> None:
        """Remove what a killed pip left and would take for installed packages."""
        site = next(self.path.glob('lib/python*/site-packages'))
        # pip writes INSTALLER after a package's files; ~NAME was set aside by an uninstall.
        half = {info for info in site.glob('*.dist-info') if not (info / 'INSTALLER').exists()}
        for folder in half.union(site.glob('~*')):
            shutil.rmtree(folder)


def main() -> None:
    """Parse the command line and set up the environment."""
    parser = argparse.ArgumentParser(
        description='Create or repair the tested environment of this checkout.',
        epilog='example:\n  python tools/misc/setup_env.py --venv .venv',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = 'folder of the environment (default: .venv in the checkout)'
    parser.add_argument('--venv', type=Path, default=REPO / '.venv', help=text)
    text = 'its packages: a file in requirements/ (default: lock.txt)'
    parser.add_argument('--lock', default='lock.txt', help=text)
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # before what pip prints next
    try:
        Environment(args.venv.resolve(), args.lock).set_up()
    except OSError as error:  # no permission to write, say
        sys.exit(f'setup: {error}')
    except KeyboardInterrupt:
        sys.exit('setup: interrupted; calling again continues from here')


if __name__ == '__main__':
    main()
