"""tools/deployment/export_onnx.py writes files that compute what the models of
every framework do, or says in one line why not."""

import copy
import re
import runpy
import sys

import config_checks
import cv2
import numpy as np
import pytest
import torch
from mmengine.utils import digit_version
from tool_runner import ROOT, run_tool

from biformer_mm.utils.errors import UsageError

TOOL = 'deployment/export_onnx.py'
SHAPES = {  # where the regions of the demos' configs divide all maps or not
    'retinanet_biformer_demo': (160, 128),
    'semantic_fpn_biformer_demo': (96, 96),
    'biformer_demo': (64, 64),
}


@pytest.fixture
def onnxruntime():
    if digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip('PyTorch before 2.6')
    for package in 'onnx', 'onnxscript':
        pytest.importorskip(package)
    return pytest.importorskip('onnxruntime')


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the tool in this process; return what it printed, or its error."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, args)])
        try:
            runpy.run_path(str(ROOT / 'tools' / TOOL), run_name='__main__')
        except SystemExit as end:
            assert '\n' not in str(end.code)
            return str(end.code)
        return capsys.readouterr().out

    return call


def config(name):
    return config_checks.CONFIGS / f'{name}.py'


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, names',
    [
        (
            'retinanet_biformer_demo',
            [
                'cls_score_8',
                'cls_score_16',
                'cls_score_32',
                'bbox_pred_8',
                'bbox_pred_16',
                'bbox_pred_32',
            ],
        ),
        ('semantic_fpn_biformer_demo', ['logits']),
        ('biformer_demo', ['logits']),
    ],
)
def test_whole_network(name, names, onnxruntime, run, shapes, tmp_path):
    """A trained-like model's file, on two images at once."""
    model = config_checks.build(config_checks.load(name)).eval()
    checkpoint, out = tmp_path / 'model.pth', tmp_path / 'new' / 'model.onnx'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    height, width = SHAPES[name]
    pictures = sorted((shapes / 'val').glob('*'))[:2]
    printed = run(
        config(name),
        checkpoint,
        '--shape',
        height,
        width,
        '--dynamic',
        '--out',
        out,
        '--image',
        *pictures,
    )
    assert 'opset 20, float32' in printed
    assert 'exported with the attention backend portable\n' in printed
    assert f'batch x 3 x {height} x {width}' in printed
    assert f'1x3x{height}x{width}, 3x3x{height}x{width}' in printed

    images = torch.randn(2, 3, height, width)
    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    assert [o.name for o in session.get_outputs()] == names
    outs = session.run(None, {'image': images.numpy()})
    with torch.no_grad():
        expected = model(images, mode='tensor')
    if len(names) == 1:
        expected = ([expected],)
    expected = [x for group in expected for x in group]
    assert len(outs) == len(expected)
    for out, value in zip(outs, expected):
        assert out.shape == value.shape
        assert (torch.from_numpy(out) - value).abs().max() < 1e-4


@pytest.mark.slow
def test_backbone_as_a_command(onnxruntime, tmp_path):
    out = tmp_path / 'backbone.onnx'
    printed = run_tool(
        TOOL,
        config('mask_rcnn_biformer_demo'),
        '--backbone',
        '--shape',
        64,
        96,
        '--fp16',
        '--out',
        out,
        cwd=tmp_path,
    )
    assert 'backbone of MaskRCNN, no checkpoint' in printed
    assert 'opset 20, float16' in printed
    assert re.search('c5 +1 x 256 x 2 x 3 ', printed)
    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    assert [o.name for o in session.get_outputs()] == ['c2', 'c3', 'c4', 'c5']


def test_images_reach_the_network_as_in_the_framework(shapes):
    """Resized, in RGB, normalised; padding that a config adds is cut off."""
    tool = runpy.run_path(str(ROOT / 'tools' / TOOL))
    cfg = copy.deepcopy(config_checks.load('retinanet_biformer_demo'))
    cfg.model.data_preprocessor.pad_size_divisor = 32
    model = config_checks.build(cfg)
    path = str(sorted((shapes / 'val').glob('*'))[0])
    images = tool['load_images'](cfg, model, [path, path], (50, 70))
    assert images.shape == (2, 3, 50, 70)
    rgb = torch.from_numpy(cv2.resize(cv2.imread(path), (70, 50)))[..., [2, 1, 0]]
    mean = torch.tensor(cfg.model.data_preprocessor.mean)
    std = torch.tensor(cfg.model.data_preprocessor.std)
    expected = ((rgb - mean) / std).permute(2, 0, 1)
    torch.testing.assert_close(images[1], expected.float())


def test_images_are_read_as_in_testing(tmp_path):
    tool = runpy.run_path(str(ROOT / 'tools' / TOOL))
    cfg = copy.deepcopy(config_checks.load('semantic_fpn_biformer_demo'))
    cfg.model.backbone.in_channels = 4
    cfg.model.data_preprocessor.update(mean=[100], std=[50])
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'unchanged'
    model = config_checks.build(cfg)
    bgra = np.random.default_rng(0).integers(0, 256, (50, 70, 4), np.uint8)
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, bgra)
    (image,) = tool['load_images'](cfg, model, [path], (50, 70))
    expected = (bgra.transpose(2, 0, 1).astype(np.float32) - 100) / 50
    np.testing.assert_allclose(image, expected, rtol=1e-6)
    assert tool['load_images'](cfg, model, [], (50, 70)).shape == (3, 4, 50, 70)
    (tmp_path / 'b.png').touch()
    with pytest.raises(UsageError, match=r'b.png is no image that can be read \(empty\); leave'):
        tool['load_images'](cfg, model, [str(tmp_path / 'b.png')], (50, 70))


@pytest.mark.slow
def test_size_that_a_head_fixes_is_refused(onnxruntime, run, tmp_path):
    """Semantic FPN's neck is exported with the sizes of the maps in it."""
    error = run(
        config('semantic_fpn_biformer_demo'),
        '--shape',
        192,
        192,
        '--dynamic-size',
        '--out',
        tmp_path / 'model.onnx',
    )
    assert 'logits' in error and 'export without --dynamic-size' in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'args, message',
    [
        (['mask_rcnn_biformer_demo'], r'got MaskRCNN; add --backbone to export'),
        (
            ['retinanet_biformer_demo', '--shape', 20, 64],
            r'--shape must be at least 32 x 32 and .*; got \(20, 64\)',
        ),
        (
            ['retinanet_biformer_demo', '--cfg-options', 'model.backbone.attn_backend=cpu'],
            "stages.0.0.attn asks for 'cpu'; add --cfg-options model.backbone.attn_backend=auto",
        ),
        (
            ['biformer_demo', '--shape', 64, 96, '--dynamic-size'],
            r'--dynamic-size needs --shape in multiples of \d+, .*; take --shape \d+ \d+$',
        ),
        (['retinanet_biformer_demo', '--image', 'none.jpg'], '--image: none.jpg is no image'),
        (['retinanet_biformer_dem'], 'did you mean .*retinanet_biformer_demo.py'),
    ],
)
def test_refusals(args, message, onnxruntime, run, tmp_path):
    name, *options = args
    if '--shape' not in options:
        options += ['--shape', 64, 64]
    error = run(config(name), *options, '--out', tmp_path / 'model.onnx')
    assert error.startswith('export_onnx.py: error: ')
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_file_is_overwritten_only_with_force(onnxruntime, run, tmp_path):
    out = tmp_path / 'model.onnx'
    out.write_text('older')
    error = run(config('biformer_demo'), '--shape', 64, 64, '--out', out)
    assert error == f'export_onnx.py: error: {out} exists; add --force to overwrite it'
    assert out.read_text() == 'older'


def test_old_pytorch_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.1.2')
    error = run(config('biformer_demo'), '--shape', 64, 64, '--out', tmp_path / 'x')
    assert error == (
        'export_onnx.py: error: export to ONNX needs PyTorch 2.6 '
        'or later; got 2.1.2; export with a newer one'
    )
