import pytest
import torch
from mmengine.utils import digit_version
from onnx_models import make

from biformer_mm.deployment.onnx_export import Dynamic, FeaturePath, export_onnx
from biformer_mm.ops import set_default_backend


@pytest.fixture(scope='session')
def onnx():
    if digit_version('2.6') > digit_version(torch.__version__):
        pytest.skip('PyTorch before 2.6')
    for package in 'onnxruntime', 'onnxscript':
        pytest.importorskip(package)
    return pytest.importorskip('onnx')


@pytest.fixture(scope='session')
def batches_file(onnx, tmp_path_factory):
    """A backbone, its export for any batch of 40 x 56, and the file. What
    'auto' means in this process is a fused kernel."""
    path = str(tmp_path_factory.mktemp('onnx') / 'model.onnx')
    model = make(padding='masked')
    set_default_backend('cpu')
    try:
        written, _ = export_onnx(FeaturePath(model), path, torch.randn(1, 3, 40, 56), Dynamic(True))
    finally:
        set_default_backend(None)
    return model, written, path
