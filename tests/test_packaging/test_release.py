"""What wheel and sdist install works without the checkout.

Slow and only of interest before a release: make test-release.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.datasets import make_shapes

pytestmark = pytest.mark.release

FILES = [
    name
    for name in subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.splitlines()
    if os.path.lexists(ROOT / name)
]
NOT_SHIPPED = {'tools/demo.py', 'tools/misc/setup_env.py'}


def run(*command, cwd):
    """Run a command that sees nothing of the checkout; return its output."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope='module', params=['checkout', 'sdist'])
def wheel(request, tmp_path_factory):
    """A wheel as pip builds it, from a copy of the checkout or an sdist."""
    source = tmp_path_factory.mktemp('checkout')
    for name in FILES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    folder = tmp_path_factory.mktemp('wheel')
    if request.param == 'sdist':
        run(
            sys.executable,
            '-c',
            'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])',
            folder,
            cwd=source,
        )
        (source,) = folder.glob('*.tar.gz')
    run(
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--no-build-isolation',
        '--no-deps',
        '--no-index',
        '--wheel-dir',
        folder,
        source,
        cwd=folder,
    )
    (wheel,) = folder.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """Python of a new environment: the wheel, and all else from this one."""
    env = tmp_path_factory.mktemp('env')
    run(sys.executable, '-m', 'venv', '--without-pip', env, cwd=env)
    python = env / 'bin' / 'python'
    run(
        sys.executable,
        '-m',
        'pip',
        '--python',
        python,
        'install',
        '--no-deps',
        '--no-index',
        wheel,
        cwd=env,
    )
    # Later on the path than the wheel. The .pth files in these folders, an
    # editable install's among them, are not read.
    (site_packages,) = env.glob('lib/python*/site-packages')
    (site_packages / 'others.pth').write_text(
        '\n'.join(path for path in sys.path if path.endswith('-packages'))
    )
    return python


@pytest.fixture(scope='module')
def installed(python, tmp_path_factory):
    """Folder of the installed package."""
    output = run(
        python,
        '-c',
        'import biformer_mm; print(biformer_mm.__file__)',
        cwd=tmp_path_factory.mktemp('elsewhere'),
    )
    package = Path(output.splitlines()[-1]).parent
    assert python.parents[1] in package.parents
    return package


def test_wheel_has_the_package_configs_and_tools_and_no_more(wheel):
    expected = {
        name for name in FILES if name.startswith('biformer_mm/') and '/.mim/' not in name
    } | {
        f'biformer_mm/.mim/{name}'
        for name in FILES
        if name.startswith(('configs/', 'tools/', 'model-index.yml')) and name not in NOT_SHIPPED
    }
    found = {name for name in ZipFile(wheel).namelist() if '.dist-info/' not in name}
    assert found == expected


def test_scripts_can_be_run(installed):
    scripts = list(installed.glob('.mim/tools/**/*.sh'))
    assert len(scripts) >= 2
    assert all(os.access(script, os.X_OK) for script in scripts)


@pytest.mark.parametrize(
    'name', ['retinanet_biformer_s_1x', 'semantic_fpn_biformer_s_80k', 'biformer_s_in1k']
)
def test_prefix_and_hub(python, installed, name, tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = 'biformer_mm::{name}.py'")
    output = run(
        python,
        '-c',
        'from biformer_mm.utils import register_all_modules\n'
        'register_all_modules()\n'
        'from mmengine.config import Config\n'
        'from mmengine.hub import get_config, get_model\n'
        f'cfg = get_config("biformer_mm::{name}.py")\n'
        'assert Config.fromfile("mine.py").to_dict() == cfg.to_dict()\n'
        'print(cfg.filename)\n'
        f'model = get_model("biformer_mm::{name}.py")\n'
        'print(type(model.backbone).__name__)',
        cwd=tmp_path,
    )
    lines = output.splitlines()
    assert str(installed / '.mim' / 'configs' / f'{name}.py') in lines
    assert lines[-1] == 'BiFormer'


def test_training(python, installed, tmp_path):
    config = installed / '.mim' / 'configs' / 'retinanet_biformer_demo.py'
    make_shapes(tmp_path / Config.fromfile(config).data_root, num_train=8, num_val=4)
    run(
        python,
        installed / '.mim' / 'tools' / 'train.py',
        config,
        '--work-dir',
        'work_dir',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        cwd=tmp_path,
    )
    state = torch.load(tmp_path / 'work_dir' / 'epoch_1.pth', weights_only=False)
    assert any(key.startswith('backbone.stages.3') for key in state['state_dict'])
