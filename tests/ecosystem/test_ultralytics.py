"""BRAPlugin in YOLOs of ultralytics: networks built from model files, and the example."""

import runpy
import subprocess
import sys

import onnxruntime
import pytest
import torch
from tool_runner import ROOT
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks

from biformer_mm.models import BRAPlugin
from biformer_mm.ultralytics import add_attention, load_pretrained, register

RECIPES = {'yolo11': {6: 8, 10: 4, 13: 8}, 'yolov8': {6: 8, 9: 4, 12: 8}}
# Rows that are read by their number, by a distance, and in a list.
OWN = """
nc: 2
backbone:
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 1]]
  - [-2, 1, Conv, [64, 1, 1]]
head:
  - [[-1, 2], 1, Concat, [1]]
  - [1, 1, Conv, [32, 1, 1]]
  - [[4, -1], 1, Detect, [nc]]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # relative names, as ultralytics looks for the scale in a path
    register()
    torch.manual_seed(0)
    return tmp_path


def build(file):
    return tasks.DetectionModel(tasks.yaml_model_load(file), verbose=False).eval()


def attention(model):
    return [layer for layer in model.modules() if isinstance(layer, BRAPlugin)]


def wake(model):
    """Give the attention's outputs a weight, as training does."""
    for layer in attention(model):
        nn.init.normal_(layer.attn.proj.weight, std=0.1)
    return attention(model)


@pytest.mark.parametrize('name', RECIPES)
def test_one_file_serves_every_scale(name):
    """The constructor finds the strides by a first forward."""
    add_attention(f'{name}.yaml', f'{name}-bra.yaml', RECIPES[name])
    widths = {}
    for scale in 'nsmlx':
        model = build(f'{name}{scale}-bra.yaml')
        assert model.stride.tolist() == [8, 16, 32]
        layers = attention(model)
        assert [layer.attn.num_regions for layer in layers] == [8, 4, 8]
        widths[scale] = [layer.attn.embed_dims for layer in layers]
    assert widths['n'] == [128, 256, 128]
    assert widths['s'] == [256, 512, 256]
    assert len({tuple(width) for width in widths.values()}) >= 4


@pytest.mark.parametrize(
    'base, after',
    [('yolo11n', RECIPES['yolo11']), ('yolov8n', RECIPES['yolov8']), ('own', {1: 2, 2: 'auto'})],
)
def test_rows_read_the_attention_of_the_rows_they_read_before(base, after):
    """Equal to the network without attention, in which hooks change the output of these rows."""
    with open('own.yaml', 'w') as file:
        file.write(OWN)
    family = base.rstrip('n') if base.startswith('yolo') else base
    add_attention(f'{family}.yaml', f'{family}-bra.yaml', after)
    plain = build(f'{base}.yaml')
    model = build(f'{base}-bra.yaml')
    layers = wake(model)
    assert len(layers) == len(after)
    others = [row for row in model.model if not isinstance(row, BRAPlugin)]
    for row, other in zip(plain.model, others):
        other.load_state_dict(row.state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        without = plain(x)[0]
        for row, layer in zip(after, layers):
            plain.model[row].register_forward_hook(lambda _, __, out, layer=layer: layer(out))
        expected = plain(x)[0]
        found = model(x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.allclose(found, without)


@pytest.mark.parametrize('row', [-1, 23, 99])
def test_rows_without_a_map_are_refused(row):
    with pytest.raises(ValueError, match=rf'yolo11.yaml has rows 0 to 22 .*got \[{row}\]'):
        add_attention('yolo11.yaml', 'yolo11-bra.yaml', {6: 8, row: 4})


def test_pretrained_network_goes_on_from_where_it_was():
    add_attention('yolo11.yaml', 'yolo11-bra.yaml', RECIPES['yolo11'])
    trained = YOLO('yolo11n.yaml')
    for module in trained.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    trained.save('plain.pt')
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = YOLO('plain.pt').model.eval()(x)[0]
        model = YOLO('yolo11n-bra.yaml')
        load_pretrained(model, 'plain.pt')
        torch.testing.assert_close(model.model.eval()(x)[0], expected, rtol=0, atol=0)


def test_pretrained_weights_of_another_network_are_refused():
    add_attention('yolov8.yaml', 'yolov8-bra.yaml', RECIPES['yolov8'])
    YOLO('yolo11n.yaml').save('plain.pt')
    with pytest.raises(ValueError, match='plain.pt must hold .* has 23 rows; got 24'):
        load_pretrained(YOLO('yolov8n-bra.yaml'), 'plain.pt')


@pytest.mark.parametrize('size', [32, 64])
def test_maps_smaller_than_the_regions(size):
    add_attention('yolo11.yaml', 'yolo11-bra.yaml', RECIPES['yolo11'])
    model = build('yolo11n-bra.yaml')
    wake(model)
    with torch.no_grad():
        assert model(torch.rand(2, 3, size, size))[0].isfinite().all()


def test_gradients_in_mixed_precision():
    add_attention('yolo11.yaml', 'yolo11-bra.yaml', RECIPES['yolo11'])
    model = build('yolo11n-bra.yaml').train()
    wake(model)
    model.args = get_cfg()
    batch = dict(
        img=torch.rand(2, 3, 64, 64),
        batch_idx=torch.tensor([0.0, 1.0]),
        cls=torch.tensor([[3.0], [5.0]]),
        bboxes=torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.5, 0.2]]),
    )
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(batch)[0].sum()
    loss.backward()
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert param.grad is not None and param.grad.isfinite().all(), name
    assert all(layer.attn.qkv.weight.grad.any() for layer in attention(model))


def test_example(folder, monkeypatch, capsys):
    """Then its checkpoint, without register() and with safe loading, and trained on."""
    monkeypatch.setattr(sys, 'argv', ['train.py', '--count', '4', '--epochs', '1', '--size', '64'])
    runpy.run_path(str(ROOT / 'examples' / 'ultralytics_yolo' / 'train.py'), run_name='__main__')
    text = capsys.readouterr().out
    assert all(f'{name}: ' in text for name in ('mAP 50-95', 'found', 'ONNX'))
    assert (folder / 'prediction.png').exists()
    best = folder / 'runs' / 'shapes' / 'weights' / 'best.pt'

    with monkeypatch.context() as context:
        context.delattr(tasks, 'BRAPlugin')
        assert len(YOLO(best).predict('prediction.png', imgsz=64)) == 1
    assert tasks.torch_safe_load(best, safe_only=True)[0]['model'].nc == 4

    model = YOLO(best)
    before = [layer.attn.qkv.weight.clone() for layer in wake(model.model)]
    model.train(data='shapes/shapes.yaml', imgsz=64, epochs=1, plots=False, project=str(folder))
    after = [layer.attn.qkv.weight for layer in attention(model.model)]
    assert len(before) == len(after) == 3
    for old, new in zip(before, after):
        assert not torch.equal(old, new)


@pytest.mark.parametrize(
    'size, shapes',
    [
        # 8 and 4 regions divide the maps of stride 16 and 32 of multiples of 128 pixels.
        (256, [(1, 3, 256, 256), (3, 3, 128, 384)]),
        # They do not divide those of 352, so that the file pads, and takes any size.
        (352, [(1, 3, 352, 352), (3, 3, 256, 256), (2, 3, 320, 224)]),
    ],
)
def test_dynamic_onnx(size, shapes):
    add_attention('yolo11.yaml', 'yolo11-bra.yaml', RECIPES['yolo11'])
    model = YOLO('yolo11n-bra.yaml')
    wake(model.model)
    file = model.export(format='onnx', imgsz=size, dynamic=True, simplify=False)
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    model.model.eval()
    for shape in shapes:
        x = torch.rand(shape)
        (found,) = session.run(None, {'images': x.numpy()})
        with torch.no_grad():
            expected = model.model(x)[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    if size == 256:
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match='Reshape'):
            session.run(None, {'images': torch.rand(1, 3, 320, 320).numpy()})


def test_nothing_is_imported_before_it_is_used():
    code = 'import sys, biformer_mm.ultralytics; assert "ultralytics" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)
