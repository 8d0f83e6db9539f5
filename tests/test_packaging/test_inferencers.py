"""The inferencers of the frameworks with our configs."""

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain import ImageClassificationInferencer
from mmseg.apis import MMSegInferencer
from tool_runner import ROOT

from biformer_mm.datasets import make_scene, scene_rng

SIZE = 96
pytestmark = pytest.mark.parametrize('form', ['path', 'prefix'])


@pytest.fixture(scope='module')
def image():
    return make_scene(scene_rng(0, 'val', 0), SIZE).image


def config(name, form):
    """A config as inferencers take it: its path, or what the hub reads, here
    made faster."""
    if form == 'path':
        return str(ROOT / 'configs' / f'{name}.py')
    cfg = get_config(f'biformer_mm::{name}.py')
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (256, 256)
    return cfg


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Function that saves random weights of a config's model, once."""
    folder = tmp_path_factory.mktemp('weights')

    def save(name, num_classes):
        path = folder / f'{name}.pth'
        if not path.exists():
            cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
            with DefaultScope.overwrite_default_scope(cfg.default_scope):
                state = MODELS.build(cfg.model).state_dict()
            if 'bbox_head.retina_cls.bias' in state:  # scores that count
                state['bbox_head.retina_cls.bias'].zero_()
            meta = dict(
                classes=tuple(f'class {i}' for i in range(num_classes)),
                palette=[(i, i, i) for i in range(num_classes)],
            )
            torch.save(dict(state_dict=state, meta=dict(dataset_meta=meta)), path)
        return str(path)

    return save


def assert_has(inferencer, weights):
    """The weights are the checkpoint's, none is missing."""
    found = inferencer.model.state_dict()
    expected = torch.load(weights, weights_only=False)['state_dict']
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)


@pytest.mark.slow
def test_detection(form, image, weights):
    name = 'retinanet_biformer_s_1x'
    checkpoint = weights(name, 80)
    inferencer = DetInferencer(config(name, form), weights=checkpoint, device='cpu')
    assert_has(inferencer, checkpoint)
    (result,) = inferencer(image, no_save_vis=True)['predictions']
    assert len(result['labels']) == len(result['scores']) == 100
    assert set(result['labels']) <= set(range(80))
    boxes = np.array(result['bboxes'])
    assert boxes.shape == (100, 4)
    assert boxes.min() >= 0 and boxes.max() <= SIZE


def test_segmentation(form, image, weights):
    name = 'semantic_fpn_biformer_s_80k'
    checkpoint = weights(name, 150)
    inferencer = MMSegInferencer(config(name, form), weights=checkpoint, device='cpu')
    assert_has(inferencer, checkpoint)
    labels = inferencer(image)['predictions']
    assert labels.shape == (SIZE, SIZE)
    assert labels.min() >= 0 and labels.max() < 150


def test_classification(form, image, weights):
    name = 'biformer_s_in1k'
    checkpoint = weights(name, 1000)
    # Unlike the others it leaves the default scope as it finds it.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inferencer = ImageClassificationInferencer(
            config(name, form), pretrained=checkpoint, device='cpu'
        )
    assert_has(inferencer, checkpoint)
    (result,) = inferencer(image)
    assert result['pred_scores'].shape == (1000,)
    assert result['pred_scores'].sum() == pytest.approx(1, abs=1e-4)
    label = result['pred_scores'].argmax()
    assert result['pred_label'] == label
    assert result['pred_class'] == f'class {label}'
