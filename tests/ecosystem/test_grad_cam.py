"""examples/grad_cam_map/: the package grad-cam against gradients by hand."""

import copy
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_grad_cam import GradCAM
from tool_runner import ROOT, load_module

from biformer_mm.timm import BiFormerClassifier

example = load_module(ROOT / 'examples' / 'grad_cam_map' / 'draw.py')
ARCH = dict(base='tiny', embed_dims=(32, 64, 96, 128), depths=(1, 1, 1, 1))


def map_by_hand(model, images, labels, stage):
    """The maps in float64: activations, weighted by the mean of their gradients."""
    model = copy.deepcopy(model).double()
    last, (x,) = model.forward_intermediates(images.double(), indices=[stage])
    logits = model.forward_head(last)
    (gradient,) = torch.autograd.grad(logits[range(len(labels)), labels].sum(), x)
    found = (gradient.mean(dim=(2, 3), keepdim=True) * x).sum(dim=1, keepdim=True).relu()
    found = F.interpolate(found / found.amax((1, 2, 3), True), images.shape[2:], mode='bilinear')
    found = found - found.amin((1, 2, 3), True)
    return (found / found.amax((1, 2, 3), True))[:, 0].detach()


@pytest.mark.parametrize('stage', [2, -1])
def test_map_is_that_of_gradients_by_hand(stage):
    torch.manual_seed(0)
    model = BiFormerClassifier(ARCH, num_classes=5).eval()
    torch.nn.init.normal_(model.head.fc.weight)
    images = torch.randn(2, 3, 128, 96)
    labels = [3, 0]  # the maps of 1 and 4 are zero
    found = example.find_maps(model, images, labels, stage)
    expected = map_by_hand(model, images, labels, stage)
    assert expected.std(dim=(1, 2)).min() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_map_of_a_block_needs_another_layout():
    torch.manual_seed(0)
    model = BiFormerClassifier(ARCH, num_classes=5)
    images = torch.randn(2, 3, 128, 96)
    cam = GradCAM(model, [model.stages[2][-1]], lambda x: x.permute(0, 3, 1, 2))
    np.testing.assert_array_equal(cam(images, None), example.find_maps(model, images, None, 2))


@pytest.mark.parametrize('labels', [[1], [5]])
def test_no_hook_remains(labels):
    model = BiFormerClassifier(ARCH, num_classes=5)
    with pytest.raises(IndexError) if labels == [5] else nullcontext():
        example.find_maps(model, torch.randn(1, 3, 64, 64), labels)
    assert not any(module._forward_hooks for module in model.modules())


def test_script_draws_the_most_likely_class(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model('biformer_tiny').eval()
    torch.nn.init.normal_(model.head.fc.weight)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / 'picture.png')
    mean, std = (np.array(model.default_cfg[key], np.float32) for key in ('mean', 'std'))
    images = torch.from_numpy((picture / np.float32(255) - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        best, other = model(images)[0].topk(2).indices.tolist()

    def draw(*options):
        command = ['draw.py', 'picture.png', 'map.png', '--checkpoint', 'weights.pth', *options]
        monkeypatch.setattr(sys, 'argv', command)
        example.main()
        return np.asarray(Image.open('map.png'))

    monkeypatch.chdir(tmp_path)
    drawn = draw()
    assert drawn.shape == (224, 224, 3) and (drawn != picture).mean() > 0.9
    assert (drawn == draw('--label', str(best))).all()
    assert (drawn != draw('--label', str(other))).mean() > 0.1
