"""Files that differ from PyTorch are refused, but not for ties of regions."""

import copy

import golden
import pytest
import torch
from onnx_models import make, run_file

from biformer_mm.deployment.onnx_check import FP32, compare
from biformer_mm.deployment.onnx_export import FeaturePath, export_onnx
from biformer_mm.utils.errors import UsageError


def make_tied():
    """A backbone to which all regions match all others exactly."""
    model = make()
    for stage in model.stages[:3]:
        channels = stage[0].attn.proj.in_features
        stage[0].attn.qkv.weight.data[channels : 2 * channels] = 0
    return model


def test_ties_resolved_otherwise_are_no_difference(onnx, tmp_path):
    model, path = make_tied(), str(tmp_path / 'model.onnx')
    images = torch.randn(1, 3, 96, 96)
    _, agreement = export_onnx(FeaturePath(model), path, images)
    # That the question arises: outputs as such are far apart.
    expected = model(images)[-1]
    assert golden.relative_error(run_file(path, images)[-1], expected) > 1e-3
    assert agreement.routing.rows == 3 * 9
    assert agreement.routing.other > 0
    assert agreement.routing.shortfall < 1e-5
    assert all(d.relative < 1e-5 for d in agreement.outputs.values())


def test_other_regions_are_refused(onnx, batches_file, tmp_path):
    model, written, path = batches_file
    images = torch.randn(1, 3, 40, 56)
    compare(FeaturePath(model), path, [images], FP32)
    worst = onnx.ModelProto()
    worst.CopyFrom(written)
    for node in worst.graph.node:
        if node.op_type == 'TopK':
            kept = [a for a in node.attribute if a.name != 'largest']
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute('largest', 0)])
    path = str(tmp_path / 'worst.onnx')
    onnx.save(worst, path)
    with pytest.raises(UsageError, match='choose the regions that PyTorch'):
        compare(FeaturePath(model), path, [images], FP32)


@pytest.mark.parametrize('factor', [1.01, float('nan')])
def test_other_outputs_are_refused(factor, onnx, batches_file):
    model, _, path = batches_file
    other = copy.deepcopy(model)
    other.out_norms['2'].weight.data *= factor
    with pytest.raises(UsageError, match='c4 differs by'):
        compare(FeaturePath(other), path, [torch.randn(1, 3, 40, 56)], FP32)
