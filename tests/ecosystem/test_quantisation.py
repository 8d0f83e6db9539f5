"""examples/quantisation evaluates a detector in 8-bit integers, by torchao, and in bfloat16."""

import os
from types import SimpleNamespace

import config_checks
import golden
import onnx_models
import pytest
import torch
import torchao
from tool_runner import ROOT, load_module, run_tool
from torch import nn

FOLDER = ROOT / 'examples' / 'quantisation'


def test_linear_layers_are_quantised_and_results_stay_close():
    """Of a network without routing, in which small errors stay small."""
    hook = load_module(FOLDER / 'torchao_int8.py').Int8Hook()
    model, images = onnx_models.make(stages=1), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)[0]
        hook.before_test(SimpleNamespace(model=model))
        found = model(images)[0]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert linear
    for module in linear:
        assert isinstance(module.weight, torchao.utils.TorchAOBaseTensor)
    assert 1e-4 < golden.relative_error(found, expected) < 0.1


def test_the_network_computes_in_bfloat16():
    hook = load_module(FOLDER / 'bfloat16.py').BFloat16Hook()
    model = config_checks.build(config_checks.load('retinanet_biformer_demo')).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.bbox_head(model.extract_feat(images))
        hook.before_test(SimpleNamespace(model=model))
        found = model.bbox_head(model.extract_feat(images))
    for a, b in zip(sum(found, []), sum(expected, [])):
        assert a.dtype == torch.float32 and 1e-5 < golden.relative_error(a, b) < 0.1


@pytest.mark.parametrize(
    'config, said',
    [
        ('retinanet_int8.py', 'compute in 8-bit integers'),
        ('retinanet_bf16.py', 'computes in bfloat16'),
    ],
)
def test_example_is_evaluated(config, said, shapes, tmp_path, monkeypatch):
    model = config_checks.build(config_checks.load('retinanet_biformer_demo'))
    model.bbox_head.retina_cls.bias.data.zero_()  # scores that count
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    paths = [str(FOLDER), os.environ['PYTHONPATH']]
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(paths))
    printed = run_tool(
        'test.py',
        *(FOLDER / config, 'model.pth', '--cfg-options'),
        f'test_dataloader.dataset.data_root={shapes}',
        f'test_evaluator.ann_file={shapes / "annotations/instances_val.json"}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        cwd=tmp_path,
    )
    assert said in printed and 'coco/bbox_mAP' in printed
