"""Big pictures without sahi: segmentors, and what is refused; tests/ecosystem has detectors."""

import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from random_models import CONFIGS
from tool_runner import ROOT, load_module

from biformer_mm.apis import inference


def build(task, checkpoints, **options):
    cfg = Config.fromfile(ROOT / 'configs' / f'{CONFIGS[task]}.py')
    return inference.build_predictor(cfg, str(checkpoints[task]), **options)[0]


def starts(length, size, stride):
    return [*range(0, length - size, stride), length - size]


@torch.no_grad()
def test_a_segmentor_averages_its_slices(checkpoints):
    """At the picture's full size, which the config's pipeline would reduce to 96 pixels."""
    image = np.random.default_rng(0).integers(0, 256, (150, 210, 3), np.uint8)
    image = image.repeat(2, 0).repeat(2, 1)[:150, :210]
    predict = build('seg', checkpoints, slice_size=64, overlap=0.25)
    label_map = predict(image).label_map
    model = predict.inferencer.model
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
    pixels = (pixels - model.data_preprocessor.mean) / model.data_preprocessor.std
    total = torch.zeros(5, 150, 210, dtype=torch.float64)
    count = torch.zeros(150, 210, dtype=torch.float64)
    for y in starts(150, 64, 48):
        for x in starts(210, 64, 48):
            logits = model(pixels[None, :, y : y + 64, x : x + 64], mode='tensor').double()
            logits = torch.nn.functional.interpolate(logits, (64, 64), mode='bilinear')
            total[:, y : y + 64, x : x + 64] += logits[0]
            count[y : y + 64, x : x + 64] += 1
    best, second = (total / count).topk(2, dim=0).values
    expected = total.argmax(dim=0).numpy()
    clear = (best - second > 1e-5).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(label_map[clear], expected[clear])
    assert len(np.unique(label_map)) > 1
    assert (build('seg', checkpoints)(image).label_map != label_map).any()


def test_a_picture_in_one_slice_is_segmented_whole(checkpoints):
    image = np.random.default_rng(0).integers(0, 256, (96, 80, 3), np.uint8)
    sliced = build('seg', checkpoints, slice_size=96)(image)
    whole = build('seg', checkpoints)(image)
    np.testing.assert_array_equal(sliced.label_map, whole.label_map)


@pytest.fixture
def call(monkeypatch, tmp_path, checkpoints):
    """Call the tool on a picture."""
    tool = load_module(ROOT / 'tools' / 'infer.py')
    Image.new('RGB', (100, 100)).save(tmp_path / 'a.png')

    def call(task, *options):
        config = ROOT / 'configs' / f'{CONFIGS[task]}.py'
        args = [tmp_path / 'a.png', '--config', config, '--checkpoint', checkpoints[task]]
        args += ['--device', 'cpu', '--out', tmp_path / 'out', *options]
        monkeypatch.setattr(sys, 'argv', ['infer.py', *map(str, args)])
        tool.main()

    return call


@pytest.mark.parametrize(
    'task, options, message',
    [
        ('cls', ['--slice', 64], '--slice is for detectors and segmentors; .*leave --slice out$'),
        ('det', ['--slice', 31], '--slice must be at least 32 pixels; got 31$'),
        ('seg', ['--slice', 64, '--overlap', 0.95], '--overlap must be from 0 to 0.9; got 0.95$'),
        ('seg', ['--slice', 64, '--overlap', 'nan'], '--overlap must be from 0 to 0.9; got nan$'),
        ('det', ['--overlap', 0.5], '--overlap is for slices; give --slice PIXELS too'),
    ],
)
def test_usage_errors(task, options, message, call, tmp_path):
    with pytest.raises(SystemExit, match=f'^infer.py: error: {message}'):
        call(task, *options)
    assert not (tmp_path / 'out').exists()


def test_a_detector_without_sahi(call, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sahi.postprocess.combine', None)
    with pytest.raises(SystemExit, match='need the package sahi.*docs/inference.md says$'):
        call('det', '--slice', 64)
