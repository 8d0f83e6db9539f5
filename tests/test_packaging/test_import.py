"""Importing biformer_mm registers, and changes nothing else of the process."""

import subprocess
import sys
from pathlib import Path

SNAPSHOT = Path(__file__).with_name('import_snapshot.py')


def run(code):
    return subprocess.run(
        [sys.executable, '-c', code], check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def changes(*statements):
    """What statements change of MMEngine, torch, logging and the process."""
    done = subprocess.run(
        [sys.executable, str(SNAPSHOT), *statements], check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout.splitlines()


def test_nothing_foreign_is_changed():
    assert changes('import biformer_mm') == []


def test_a_reload_does_no_harm():
    reload = (
        'import importlib, sys; '
        '[importlib.reload(sys.modules[name]) for name in '
        '("biformer_mm.utils.compatibility", "biformer_mm")]'
    )
    assert changes('import biformer_mm', reload) == []


def test_the_snapshot_sees_what_register_all_modules_changes():
    found = '\n'.join(
        changes('import biformer_mm.utils', 'biformer_mm.utils.register_all_modules()')
    )
    for name in (
        '_DEFAULT_SUPPORTED_FLOP_OPS',
        'Config._get_cfg_path',
        '_get_package_and_cfg_path',
    ):
        assert name in found


def test_the_snapshot_sees_other_changes():
    statements = dict(
        SIGTERM='import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)',
        benchmark='import torch; torch.backends.cudnn.benchmark = True',
        filters='import warnings; warnings.simplefilter("always")',
        level='import logging; logging.getLogger().setLevel(10)',
        threads='torch.set_num_threads(3)',
        train='import mmengine.runner as r; r.Runner.train = None',
        MODULE2PACKAGE='import mmengine.config.utils as u; u.MODULE2PACKAGE["a"] = "b"',
    )
    found = '\n'.join(changes('; '.join(statements.values())))
    for name in statements:
        assert name in found


def test_nothing_that_a_backbone_does_not_need_is_imported():
    code = (
        'import sys, torch, mmengine.runner; before = set(sys.modules); '
        'import biformer_mm; print(*sorted(set(sys.modules) - before))'
    )
    names = run(code).split()
    assert 'biformer_mm.models.backbones.biformer' in names
    hooks = [name for name in names if name.startswith('biformer_mm.engine.hooks.')]
    assert hooks == ['biformer_mm.engine.hooks.routing_visualization_hook']
    for name in names:
        assert not name.startswith(
            (
                'biformer_mm.engine.runner',
                'biformer_mm.analysis',
                'matplotlib',
                'onnx',
                'torch.onnx',
                'torch._dynamo',
                'torch.distributed',
            )
        ), name


def test_what_a_user_imports():
    code = (
        'from biformer_mm import BiFormer, BiLevelRoutingAttention; '
        'from mmengine.registry import MODELS; '
        'assert MODELS.get("BiFormer") is BiFormer'
    )
    run(code)
