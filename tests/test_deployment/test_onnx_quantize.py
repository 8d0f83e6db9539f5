"""Files in 8-bit integers: what is quantised, and that results stay close."""

from pathlib import Path

import golden
import pytest
import torch
from onnx_models import make, run_file
from torch import nn

from biformer_mm.deployment.onnx_export import FeaturePath, export_onnx
from biformer_mm.deployment.onnx_quantize import quantize_dynamic, quantize_static

WIDE = dict(  # so that weights make most of the file
    embed_dims=(64, 64),
    depths=(1, 1),
    topks=(2, 2),
    mlp_ratio=2,
    head_dim=32,
    stem='conv',
    pos_conv=True,
)


@pytest.fixture(scope='module')
def routed(onnx, tmp_path_factory):
    """A backbone that routes, its file, and images of the file's size."""
    from biformer_mm.models import BiFormer

    torch.manual_seed(0)
    model = BiFormer(WIDE, num_regions=2, out_indices=(0, 1)).eval()
    path, images = str(tmp_path_factory.mktemp('onnx') / 'model.onnx'), torch.randn(3, 3, 64, 96)
    export_onnx(FeaturePath(model), path, images[:1])
    return model, path, images


def weights_of(graph, kind):
    """For each operator of a kind, whether its second input is a constant."""
    constants = {x.name for x in graph.initializer}
    return [node.input[1] in constants for node in graph.node if node.op_type == kind]


def test_dynamic_quantises_linear_layers_only(onnx, routed, tmp_path):
    model, path, _ = routed
    out = tmp_path / 'new' / 'int8.onnx'
    quantize_dynamic(path, str(out))
    before, after = onnx.load(path).graph, onnx.load(out).graph
    linear = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert len(weights_of(after, 'MatMulInteger')) == linear
    products = weights_of(before, 'MatMul').count(False)  # of the routing and attention
    assert products > 0 and weights_of(after, 'MatMul') == [False] * products
    assert not weights_of(after, 'ConvInteger')
    assert out.stat().st_size < Path(path).stat().st_size


def test_static_finds_scales_on_all_batches(onnx, routed, tmp_path):
    model, path, images = routed
    out, batches = tmp_path / 'int8.onnx', iter(images.split(1))
    quantize_static(path, str(out), batches)
    assert next(batches, None) is None
    graph = onnx.load(out).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    for kind in 'Conv', 'Gemm':
        for node in graph.node:
            if node.op_type == kind:
                assert [made[x] for x in node.input[:2]] == ['DequantizeLinear'] * 2
    assert 'TopK' in made.values()
    products = weights_of(onnx.load(path).graph, 'MatMul').count(False)
    plain = [
        node
        for node in graph.node
        if node.op_type == 'MatMul' and made.get(node.input[1]) != 'DequantizeLinear'
    ]
    assert len(plain) == products
    assert 2 * out.stat().st_size < Path(path).stat().st_size


@pytest.mark.parametrize('static', [False, True])
def test_results_stay_close(static, onnx, tmp_path):
    """Of a network without routing, in which small errors stay small."""
    model, path, out = make(stages=1), str(tmp_path / 'model.onnx'), str(tmp_path / 'int8.onnx')
    images = torch.randn(2, 3, 64, 64)
    export_onnx(FeaturePath(model), path, images[:1])
    if static:
        quantize_static(path, out, images.split(1))
    else:
        quantize_dynamic(path, out)
    for image in images.split(1):
        with torch.no_grad():
            error = golden.relative_error(run_file(out, image)[0], model(image)[0])
        assert 1e-4 < error < 0.1
