"""What a config's network sees of an image file."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.apis.model import build_model
from biformer_mm.utils.errors import UsageError
from biformer_mm.visualization.inputs import load_input

# Of each framework; the last crops the image's middle.
CONFIGS = ('retinanet_biformer_t_1x', 'semantic_fpn_biformer_t_80k', 'biformer_t_in1k')
DOT = (180, 90)  # x, y
RED = (30, 60, 200)  # BGR


@pytest.fixture(scope='module', params=CONFIGS)
def config(request):
    cfg = Config.fromfile(ROOT / 'configs' / f'{request.param}.py')
    cfg.model.backbone.arch = dict(
        embed_dims=(32, 32, 32, 32),
        depths=(1, 1, 1, 1),
        topks=(1, 1, 1, None),
        mlp_ratio=1,
        head_dim=32,
        stem='conv',
        pos_conv=True,
    )
    for part in (cfg.model.get('neck') or {}, cfg.model.get('head') or {}):
        if isinstance(part.get('in_channels'), list):
            part.in_channels = [32] * len(part.in_channels)
        elif 'in_channels' in part:
            part.in_channels = 32
    model, _ = build_model(cfg)
    return cfg, model


@pytest.fixture
def image(tmp_path):
    """A red dot on grey, 300 x 200."""
    pixels = np.full((200, 300, 3), 90, np.uint8)
    cv2.circle(pixels, DOT, 5, RED, -1)
    path = tmp_path / 'dot.png'
    cv2.imwrite(str(path), pixels)
    return path


def test_positions_of_the_file_are_found_on_the_picture(config, image):
    seen = load_input(*config, str(image))
    redness = seen.picture[..., 0].astype(int) - seen.picture[..., 2]
    rows, cols = np.nonzero(redness > 80)
    x, y = seen.at(*DOT)
    scale = np.hypot(np.ptp(rows), np.ptp(cols)) / np.hypot(10, 10)
    assert abs(cols.mean() - x) < 0.5 * scale + 1
    assert abs(rows.mean() - y) < 0.5 * scale + 1


def test_tensor_is_the_normalised_picture(config, image):
    cfg, model = config
    seen = load_input(cfg, model, str(image))
    height, width = seen.picture.shape[:2]
    scaling = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    mean, std = (torch.tensor(scaling[name]).view(3, 1, 1) for name in ('mean', 'std'))
    expected = (torch.from_numpy(seen.picture).permute(2, 0, 1) - mean) / std
    torch.testing.assert_close(seen.tensor[0, :, :height, :width], expected)


def test_what_is_cropped_off_is_refused(config, image):
    cfg, model = config
    seen = load_input(cfg, model, str(image))
    if cfg.default_scope == 'mmpretrain':
        message = 'sees X from 62 to 237 of this image; got 1: give'
        with pytest.raises(UsageError, match=message):
            seen.at(1, 100)
    else:
        height, width = seen.picture.shape[:2]
        scale = width / 300
        np.testing.assert_allclose(seen.at(0, 0), 0, atol=scale)
        np.testing.assert_allclose(seen.at(299, 199), (width - 1, height - 1), atol=scale)
    for outside in ((300 + 9, 100), (150, -9)):
        with pytest.raises(UsageError, match='network sees'):
            seen.at(*outside)


def test_files_that_are_no_images_are_refused(config, tmp_path):
    text = tmp_path / 'text.jpg'
    text.write_text('not an image')
    with pytest.raises(UsageError, match='text.jpg is not an image'):
        load_input(*config, str(text))


@pytest.mark.parametrize(
    'channels, options',
    [
        (4, dict(color_type='unchanged')),
        (4, dict(color_type='unchanged', to_float32=True)),
        (1, dict(color_type='grayscale')),
    ],
)
def test_images_are_read_as_in_testing(channels, options, image, tmp_path):
    """A dot is found by its position, and its colours are those of the file."""
    cfg = Config.fromfile(ROOT / 'configs' / 'semantic_fpn_biformer_demo.py')
    cfg.model.backbone.in_channels = channels
    cfg.model.data_preprocessor.update(mean=[100], std=[50])
    cfg.test_dataloader.dataset.pipeline[0].update(options)
    model, _ = build_model(cfg)
    pixels = cv2.imread(str(image))
    alpha = np.full((*pixels.shape[:2], 1), 33, np.uint8)
    cv2.imwrite(str(tmp_path / 'dot.png'), np.concatenate([pixels, alpha], axis=2))
    seen = load_input(cfg, model, str(tmp_path / 'dot.png'))
    height, width = seen.picture.shape[:2]
    assert seen.tensor.shape[1] == channels
    if channels == 4:
        assert (seen.tensor[0, 3, :height, :width] == (33 - 100) / 50).all()
    x, y = seen.at(*DOT)
    expected = RED[::-1] if channels == 4 else [round(np.dot(RED, (0.114, 0.587, 0.299)))] * 3
    np.testing.assert_allclose(seen.picture[y, x].astype(int), expected, atol=3)


def test_images_too_narrow_for_the_network_are_refused(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs' / 'retinanet_biformer_demo.py')
    model, _ = build_model(cfg)
    path = tmp_path / 'tall.png'
    cv2.imwrite(str(path), np.full((2000, 32, 3), 77, np.uint8))
    with pytest.raises(UsageError, match='tall.png the config makes 160 x 3: give'):
        load_input(cfg, model, str(path))


def test_an_image_of_one_pixel(config, tmp_path):
    path = tmp_path / 'pixel.png'
    cv2.imwrite(str(path), np.full((1, 1, 3), 77, np.uint8))
    seen = load_input(*config, str(path))
    assert (seen.picture == 77).all()
    assert seen.at(0, 0) == (0, 0)
