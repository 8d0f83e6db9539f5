"""Which versions of OpenMMLab's packages are refused, and how: against fake
packages that cannot be imported, of which only the version can be read."""

import subprocess
import sys
from pathlib import Path

import pytest

from biformer_mm.utils.compatibility import SUPPORTED, check_packages, installed_version

REPO = Path(__file__).resolve().parents[2]
FRAMEWORKS = ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')


def write_package(folder, module, version):
    (folder / module).mkdir()
    (folder / module / '__init__.py').write_text('raise RuntimeError\n')
    (folder / module / 'version.py').write_text(f'__version__ = {version!r}\n')


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a fake package before the real one."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module, version):
        monkeypatch.delitem(sys.modules, module, raising=False)
        write_package(tmp_path, module, version)

    return write


def read_pins(name):
    lines = (REPO / 'requirements' / name).read_text().splitlines()
    return dict(line.split('==') for line in lines if '==' in line)


@pytest.mark.parametrize(
    'module, version, supported',
    [
        ('torch', '2.0.1+cu118', '>=2.1,<3'),
        ('mmengine', '0.9.1', '>=0.10,<1'),
        ('mmengine', '1.0', '>=0.10,<1'),
    ],
)
def test_refused(install, module, version, supported):
    install(module, version)
    with pytest.raises(ImportError) as caught:
        check_packages()
    assert_names(str(caught.value), module, version, supported)


@pytest.mark.parametrize(
    'module, version, supported',
    [
        ('mmcv', '1.7.2', '>=2.0.1,<3'),
        ('mmcv', '2.0.0rc4', '>=2.0.1,<3'),
        ('mmcv', '3.0.0rc1', '>=2.0.1,<3'),
        ('mmdet', '2.28.2', '>=3.3,<4'),
        ('mmdet', '4.0.0', '>=3.3,<4'),
        ('mmseg', '0.30.0', '>=1.2,<2'),
        ('mmpretrain', '1.1.1', '>=1.2,<2'),
    ],
)
def test_warned_of(install, module, version, supported):
    """A framework that is installed need not be used."""
    install(module, version)
    with pytest.warns(UserWarning, match='biformer_mm works with') as caught:
        check_packages()
    (warning,) = caught
    assert_names(str(warning.message), module, version, supported)


def assert_names(message, module, version, supported):
    assert message.startswith(
        f'biformer_mm works with {module}{supported}, found {module} {version}: install '
    )
    assert SUPPORTED[module].distributions in message and '\n' not in message


@pytest.mark.parametrize(
    'module, version',
    [
        ('torch', '2.1'),
        ('torch', '2.10.0a0+git1234567'),
        ('mmengine', '0.10.0'),
        ('mmcv', '2.0.1'),
        ('mmcv', '2.2.0'),
        ('mmdet', '3.10.1'),
        ('mmseg', '1.2.2'),
        ('mmpretrain', '1.2.0'),
    ],
)
def test_accepted(install, module, version):
    install(module, version)
    assert installed_version(module) == version
    check_packages()


@pytest.mark.parametrize('lock, family', [('lock.txt', -1), ('upstream.txt', 0)])
def test_tested_environments_are_accepted(install, lock, family):
    pins = read_pins(lock)
    for module, supported in SUPPORTED.items():
        install(module, pins[supported.distributions.split(' or ')[family]])
    check_packages()


def test_missing_packages_are_accepted(monkeypatch):
    for module in SUPPORTED:
        monkeypatch.setitem(sys.modules, module, None)
        assert installed_version(module) is None
    check_packages()


def test_folder_of_that_name_is_no_package(monkeypatch, tmp_path):
    (tmp_path / 'mmdet').mkdir()
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'mmdet', raising=False)
    assert installed_version('mmdet') is None


def run(folder, code):
    """Runs code in a new Python where the packages in a folder come first."""
    return subprocess.run(
        [
            sys.executable,
            '-c',
            f'import sys; sys.path[:0] = [{str(folder)!r}, {str(REPO)!r}]; {code}',
        ],
        capture_output=True,
        text=True,
    )


class TestImport:
    def test_is_refused(self, tmp_path):
        write_package(tmp_path, 'mmengine', '0.9.1')
        result = run(tmp_path, 'import biformer_mm')
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith(
            'ImportError: biformer_mm works with mmengine>=0.10,<1, found '
            'mmengine 0.9.1: install mmengine or onedl-mmengine'
        )

    def test_imports_no_framework(self, tmp_path):
        for module in FRAMEWORKS:
            write_package(tmp_path, module, SUPPORTED[module].lower)
        result = run(
            tmp_path, f'import biformer_mm; print(set(sys.modules).intersection({FRAMEWORKS}))'
        )
        assert result.stdout == 'set()\n', result.stderr

    def test_ops_without_mmengine_check_nothing(self, tmp_path):
        write_package(tmp_path, 'mmcv', '1.7.2')
        result = run(
            tmp_path,
            "sys.modules['mmengine'] = None; "
            'import biformer_mm.ops; print(biformer_mm.ops.region_attention)',
        )
        assert 'region_attention' in result.stdout, result.stderr
