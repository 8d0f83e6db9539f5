"""A config in pure Python, with classes as types, through every tool."""

import pytest
from mmengine.config import Config
from tool_runner import ROOT, TRUST, run_tool

from biformer_mm.datasets import make_shapes

CONFIG = ROOT / 'examples' / 'pure_python' / 'retinanet_shapes.py'
RUN = CONFIG.stem
pytestmark = pytest.mark.slow


def options(epochs):
    found = [f'train_cfg.max_epochs={epochs}', f'train_cfg.val_interval={epochs}']
    for split in ('train', 'val', 'test'):
        found += [
            f'{split}_dataloader.batch_size=2',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
    return ['--cfg-options', *found]


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder with data and a checkpoint."""
    folder = tmp_path_factory.mktemp('project')
    make_shapes(folder / 'data' / 'shapes' / 'coco', num_train=4, num_val=2)
    run_tool('train.py', CONFIG, *options(1), cwd=folder)
    return folder


@pytest.fixture
def checkpoint(project):
    return project / 'work_dirs' / RUN / 'epoch_1.pth'


def test_types_are_classes():
    cfg = Config.fromfile(CONFIG)
    assert isinstance(cfg.model.type, type)
    assert isinstance(cfg.train_dataloader.dataset.type, type)


def test_the_run_has_what_others_have(project):
    """The hooks and loops of docs/faults.md; read from what it dumps."""
    cfg = Config.fromfile(project / 'work_dirs' / RUN / f'{RUN}.py')
    assert cfg.default_hooks.checkpoint.type == 'WholeCheckpointHook'
    assert cfg.train_cfg.type == 'ResumableEpochLoop'
    names = [hook.type for hook in cfg.custom_hooks]
    assert names == [
        'ResumableSeedHook',
        'NonFiniteLossHook',
        'GradientCheckHook',
        'PreemptionHook',
        'HangHook',
    ]


def test_is_resumed(project):
    output = run_tool('train.py', CONFIG, '--resume', *TRUST, *options(2), cwd=project)
    assert 'resumed epoch: 1' in output and 'Epoch(train) [2][2/2]' in output


@pytest.mark.parametrize('arguments', [[], ['--tta']])
def test_is_tested(arguments, project, checkpoint):
    output = run_tool('test.py', CONFIG, checkpoint, *arguments, *TRUST, cwd=project)
    assert 'Epoch(test)' in output


def test_what_it_dumps_is_tested(project, checkpoint):
    dumped = project / 'work_dirs' / RUN / f'{RUN}.py'
    assert 'Epoch(test)' in run_tool('test.py', dumped, checkpoint, *TRUST, cwd=project)


def test_data_are_checked(project):
    output = run_tool('misc/check_dataset.py', CONFIG, cwd=project)
    assert output.splitlines()[-1] == '6 images read, 0 problems'


def test_missing_data_are_named(tmp_path):
    output = run_tool('train.py', CONFIG, cwd=tmp_path, ok=False)
    assert 'data not found: data/shapes/coco/' in output


def test_predicts(project, checkpoint):
    run_tool(
        'infer.py',
        'data/shapes/coco/val',
        '--config',
        CONFIG,
        '--checkpoint',
        checkpoint,
        '--out',
        'out',
        *TRUST,
        cwd=project,
    )
    assert len(list((project / 'out').glob('**/*.jpg'))) == 2


def test_routing_is_shown(project, checkpoint):
    picture = next((project / 'data/shapes/coco/val').iterdir())
    run_tool(
        'analysis_tools/visualize_routing.py',
        picture,
        '--config',
        CONFIG,
        '--checkpoint',
        checkpoint,
        '--out',
        'routing',
        *TRUST,
        cwd=project,
    )
    assert list((project / 'routing').iterdir())


def test_flops_are_counted(project):
    output = run_tool('analysis_tools/get_flops.py', CONFIG, '--shape', 160, cwd=project)
    assert 'multiply-adds' in output


def test_is_exported(project, checkpoint):
    pytest.importorskip('onnxruntime')
    output = run_tool(
        'deployment/export_onnx.py',
        CONFIG,
        checkpoint,
        '--shape',
        160,
        160,
        '--out',
        'model.onnx',
        *TRUST,
        cwd=project,
    )
    assert 'checked in onnxruntime' in output
