"""tools/deployment/test_onnx.py predicts with a file what the config's network predicts."""

import re

import config_checks
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.utils import digit_version
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from tool_runner import run_tool

from biformer_mm.deployment.onnx_export import FeaturePath, export_onnx
from biformer_mm.utils.errors import UsageError

TOOL = 'deployment/test_onnx.py'
SIZE = 96, 96
SAMPLES = dict(
    biformer_demo=DataSample,
    retinanet_biformer_demo=DetDataSample,
    semantic_fpn_biformer_demo=SegDataSample,
)


@pytest.fixture(autouse=True, scope='module')
def packages():
    if digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip('PyTorch before 2.6')
    for package in 'onnx', 'onnxscript', 'onnxruntime':
        pytest.importorskip(package)


def make(name, path):
    """Build a demo's model that finds things, and export it."""
    cfg = config_checks.load(name)
    if name.startswith('retinanet'):
        cfg.model.test_cfg.update(score_thr=0.0, nms_pre=50, max_per_img=10)
    model = config_checks.build(cfg).eval()
    if name.startswith('retinanet'):  # scores far apart
        model.bbox_head.retina_cls.weight.data *= 50
    export_onnx(FeaturePath(model), str(path), torch.randn(1, 3, *SIZE))
    return model


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('name', SAMPLES)
def test_predictions_are_those_of_the_network(name, tool, tmp_path):
    model = make(name, tmp_path / 'model.onnx')
    meta = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, scale_factor=(1.0, 1.0))
    pixels = torch.randint(0, 255, (3, *SIZE), dtype=torch.uint8)
    inputs = dict(inputs=[pixels], data_samples=[SAMPLES[name](metainfo=meta)])
    expected = config_checks.predict(model, inputs)
    tool.replace_network(model, str(tmp_path / 'model.onnx'), 'onnxruntime')
    for child in model.children():  # nothing of them is left in use
        for parameter in child.parameters():
            parameter.data.fill_(torch.nan)
    found = config_checks.predict(model, inputs)
    assert found.numel() > 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    return make('biformer_demo', path), str(path)


def test_images_of_another_size_are_refused(tool, classifier):
    model, path = classifier
    tool.replace_network(model, path, 'onnxruntime')
    inputs = dict(inputs=[torch.zeros(3, 64, 96)], data_samples=[DataSample()])
    with pytest.raises(UsageError, match=r'takes images of 1 x 3 x 96 x 96; .* 1 x 3 x 64 x 96'):
        config_checks.predict(model, inputs)


def test_the_file_of_another_model_is_refused(tool, classifier):
    model = config_checks.build(config_checks.load('retinanet_biformer_demo'))
    with pytest.raises(UsageError, match=r"its outputs are \['cls_score_8'.* has \['logits'\]"):
        tool.replace_network(model, classifier[1], 'onnxruntime')


@pytest.mark.slow
def test_metrics_are_those_of_the_checkpoint(healthy, tmp_path):
    """Also with a batch size of the config that the file does not take."""
    name = 'biformer_demo'
    config, data = config_checks.CONFIGS / f'{name}.py', healthy['imagenet']
    model = config_checks.build(config_checks.load(name)).eval()
    checkpoint, path = tmp_path / 'model.pth', tmp_path / 'model.onnx'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    export_onnx(FeaturePath(model), str(path), torch.randn(1, 3, 64, 64))
    options = [
        *('--work-dir', 'work', '--cfg-options'),
        f'test_dataloader.dataset.data_root={data}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'test_dataloader.batch_size=2',
    ]
    found = []
    for command in ('test.py', config, checkpoint), (TOOL, config, path):
        printed = run_tool(*command, *options, cwd=tmp_path)
        found.append(re.findall(r'accuracy/top1: ([\d.]+)', printed))
    assert found[0] and found[0] == found[1]
