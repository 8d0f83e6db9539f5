"""Exported files compute in OpenVINO what they do in PyTorch."""

import re

import config_checks
import onnx
import onnx_models
import pytest
import torch
from onnx import numpy_helper
from tool_runner import run_tool

from biformer_mm.deployment import runtimes
from biformer_mm.deployment.onnx_check import FP32, compare
from biformer_mm.deployment.onnx_export import Dynamic, FeaturePath, export_onnx
from biformer_mm.utils.errors import UsageError

SHAPES = {  # where the regions of the demos' configs divide all maps or not
    'retinanet_biformer_demo': (160, 128),
    'semantic_fpn_biformer_demo': (96, 96),
    'biformer_demo': (64, 64),
}


@pytest.fixture(scope='module', params=list(SHAPES))
def exported(request, tmp_path_factory):
    """A whole model, its file for any number of images, and their agreement in OpenVINO."""
    model = config_checks.build(config_checks.load(request.param)).eval()
    path = str(tmp_path_factory.mktemp('openvino') / 'model.onnx')
    images = torch.randn(2, 3, *SHAPES[request.param])
    _, agreement = export_onnx(
        FeaturePath(model), path, images, Dynamic(batch=True), runtime='openvino'
    )
    return model, path, agreement


def test_outputs_agree(exported):
    _, path, agreement = exported
    assert list(agreement.outputs) == runtimes.output_names(path)
    assert [shape[0] for shape in agreement.shapes] == [1, 3]
    assert agreement.routing.rows > 0
    assert all(difference.relative < 1e-5 for difference in agreement.outputs.values())


def test_altered_weights_are_found(exported, tmp_path):
    model, path, agreement = exported
    altered = onnx.load(path)
    weight = max(
        (x for x in altered.graph.initializer if x.data_type == onnx.TensorProto.FLOAT),
        key=lambda x: len(x.raw_data),
    )
    weight.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weight), weight.name))
    path = str(tmp_path / 'altered.onnx')
    onnx.save(altered, path)
    images = torch.randn(1, *agreement.shapes[0][1:])
    with pytest.raises(UsageError, match='differs by|choose the regions'):
        compare(FeaturePath(model), path, [images], FP32, 'openvino')


def test_computes_in_fp32_whatever_the_cpu_offers(tmp_path):
    """In bfloat16 the difference would be of the order of 1e-2."""
    model, path = onnx_models.make(), str(tmp_path / 'model.onnx')
    images = torch.randn(1, 3, 40, 56)
    export_onnx(FeaturePath(model), path, images)
    with torch.no_grad():
        expected = model.double()(images.double())
    for out, value in zip(runtimes.load(path, 'openvino')(images.numpy()), expected):
        assert out.dtype == 'float32'
        assert (torch.from_numpy(out) - value).abs().max() < 1e-4 * value.abs().max()


def test_export_tool_checks_in_openvino(tmp_path):
    out = tmp_path / 'model.onnx'
    printed = run_tool(
        'deployment/export_onnx.py',
        config_checks.CONFIGS / 'biformer_demo.py',
        *('--shape', 64, '--backend', 'openvino', '--out', out),
        cwd=tmp_path,
    )
    assert 'checked in openvino on 1x3x64x64' in printed
    assert onnx.load(out).graph.output[0].name == 'logits'


def test_evaluation_tool_runs_in_openvino(healthy, tmp_path):
    """The metric is that of onnxruntime."""
    config = config_checks.CONFIGS / 'biformer_demo.py'
    model = config_checks.build(config_checks.load('biformer_demo')).eval()
    export_onnx(FeaturePath(model), str(tmp_path / 'model.onnx'), torch.randn(1, 3, 64, 64))
    options = [
        '--cfg-options',
        f'test_dataloader.dataset.data_root={healthy["imagenet"]}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ]
    found = []
    for runtime in runtimes.RUNTIMES:
        printed = run_tool(
            'deployment/test_onnx.py',
            *(config, 'model.onnx', '--backend', runtime, *options),
            cwd=tmp_path,
        )
        found.append(re.findall(r'accuracy/top1: ([\d.]+)', printed))
    assert found[0] and found[0] == found[1]
