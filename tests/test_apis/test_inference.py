"""Predictors without the tool; tests/test_tools/test_infer.py has what they predict."""

import cv2
import four_channels
import golden
import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from random_models import COLOURS, CONFIGS
from tool_runner import ROOT

from biformer_mm.apis import inference
from biformer_mm.apis.model import build_model

SHAPES = ('circle', 'square', 'triangle', 'star')


def predictor(task, checkpoint, change=lambda content: None):
    """From a checkpoint whose content is changed."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    path = checkpoint.with_name('changed.pth')
    torch.save(content, path)
    cfg = Config.fromfile(ROOT / 'configs' / f'{CONFIGS[task]}.py')
    return inference.build_predictor(cfg, str(path))


def test_palette_of_the_checkpoint_reaches_the_picture(checkpoints):

    def always_2(content):
        content['state_dict']['decode_head.conv_seg.weight'].zero_()
        content['state_dict']['decode_head.conv_seg.bias'][2] = 1

    predict, _ = predictor('seg', checkpoints['seg'], always_2)
    prediction = predict(np.zeros((400, 500, 3), np.uint8))
    assert prediction.overlay.shape == (400, 500, 3)
    assert (prediction.label_map == 2).all()
    colour = np.median(prediction.overlay, axis=(0, 1))
    red, green, blue = COLOURS[2]
    # Opacity 0.6.
    np.testing.assert_allclose(colour, [0.6 * blue, 0.6 * green, 0.6 * red], atol=1)


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_names_fall_back_to_the_config_then_to_numbers(task, checkpoints):
    count = 5 if task == 'seg' else 4
    of_config = ['background', *SHAPES] if task == 'seg' else list(SHAPES)
    if task == 'cls':  # CustomDataset has no names but its folders'
        of_config = ['0', '1', '2', '3']

    def too_many(content):
        content['meta']['dataset_meta']['classes'] += ('one more',)

    for change in (lambda content: content.pop('meta'), too_many):
        predict, source = predictor(task, checkpoints[task], change)
        assert predict.names == of_config
        assert ('numbers' if task == 'cls' else 'the config') in source
    predict, source = predictor(task, checkpoints[task])
    assert predict.names == [f'kind {i}' for i in range(count)]
    assert source == 'the checkpoint'


def test_palette_falls_back_too(checkpoints):
    meta = inference.class_names(torch.nn.ModuleDict(dict(head=Head(3))), classes_in_config(), {})
    assert meta[0] == ['a', 'b', 'c']
    assert len(set(meta[1])) == 3  # made up, and distinct
    names, palette, _ = inference.class_names(
        torch.nn.ModuleDict(dict(head=Head(3))),
        classes_in_config(),
        dict(classes=['x', 'y', 'z'], palette=[[1, 2, 3]] * 3),
    )
    assert (names, palette) == (['x', 'y', 'z'], [(1, 2, 3)] * 3)


class Head(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def classes_in_config():
    dataset = dict(type='CustomDataset', metainfo=dict(classes=list('abc')))
    return Config(dict(default_scope='mmpretrain', test_dataloader=dict(dataset=dataset)))


@torch.no_grad()
def test_released_checkpoints(tmp_path):
    arrays = golden.load('classifier_s7')
    names = [f'old {i}' for i in range(10)]
    torch.save(
        dict(model=golden.section(arrays, 'state'), meta=dict(CLASSES=names)),
        tmp_path / 'released.pth',
    )
    cfg = Config.fromfile(ROOT / 'configs/biformer_s_in1k.py')
    cfg.model.backbone.arch = golden.small_arch()[0]
    cfg.model.head.update(in_channels=cfg.model.backbone.arch['embed_dims'][3], num_classes=10)
    predict, source = inference.build_predictor(cfg, str(tmp_path / 'released.pth'))
    assert (predict.names, source) == (names, 'the checkpoint')
    model = predict.inferencer.model
    golden.assert_close(
        model.head(model.extract_feat(arrays['x'])), arrays['out'], golden.OUT_RTOL, 'logits'
    )
    assert len(predict(np.zeros((50, 60, 3), np.uint8)).result['classes']) == 5


def test_task(checkpoints):
    cfg = Config.fromfile(ROOT / 'configs' / f'{CONFIGS["det"]}.py')
    checkpoint = str(checkpoints['det'])
    with pytest.raises(inference.UsageError, match='is for, det.*got seg'):
        inference.build_predictor(cfg, checkpoint, 'seg')
    cfg.default_scope = None
    with pytest.raises(inference.UsageError, match="give task='det', 'seg' or 'cls'"):
        inference.build_predictor(cfg, checkpoint)
    predict, _ = inference.build_predictor(cfg, checkpoint, 'det')
    result = predict(np.zeros((50, 60, 3), np.uint8)).result
    assert (result['task'], result['width']) == ('detection', 60)


def test_configs_without_test_or_visualizer(checkpoints):
    cfg = Config.fromfile(ROOT / 'configs' / f'{CONFIGS["det"]}.py')
    before = cfg.pretty_text
    cfg.visualizer = None
    predict, _ = inference.build_predictor(cfg, str(checkpoints['det']))
    assert predict(np.zeros((50, 60, 3), np.uint8)).overlay.size
    assert cfg.visualizer is None  # the caller's is not touched
    cfg = Config.fromstring(before, '.py')
    cfg.test_dataloader = None
    with pytest.raises(inference.UsageError, match='no test_dataloader'):
        inference.build_predictor(cfg, str(checkpoints['det']))


@pytest.mark.parametrize('task', four_channels.LAYOUTS)
def test_four_channels(task, tmp_path):
    """The fourth matters, and the picture shows the other three."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{CONFIGS[task]}.py')
    for option in four_channels.options(task):
        key, _, value = option.partition('=')
        cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
    torch.manual_seed(0)
    model, _ = build_model(cfg)
    if task == 'det':
        model.bbox_head.retina_cls.bias.data.zero_()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    predict, _ = inference.build_predictor(cfg, str(tmp_path / 'model.pth'), score_thr=0)
    pixels = np.random.default_rng(0).integers(0, 256, (330, 340, 4), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    image = predict.read(str(tmp_path / 'a.png'))
    np.testing.assert_array_equal(image, pixels)
    prediction = predict(image)
    assert prediction.overlay.shape == (330, 340, 3)
    pixels[..., 3] = 255 - pixels[..., 3]
    other = predict(pixels)
    if task == 'seg':
        assert (other.label_map != prediction.label_map).any()
    else:
        assert other.result != prediction.result
