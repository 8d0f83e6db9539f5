"""Label maps of a classifier against the classifier itself."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from config_checks import build, load
from PIL import Image

from biformer_mm.apis.token_labels import (
    dense_logits,
    find_classifier,
    list_images,
    make_token_labels,
)
from biformer_mm.datasets.token_labels import read_token_labels
from biformer_mm.utils.errors import UsageError


@pytest.fixture(scope='module')
def model():
    return build(load('biformer_demo')).eval()


@pytest.fixture
def images(tmp_path):
    """Five images of several sizes and kinds in two folders, and what is none."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(('a/0.jpg', 'a/1.PNG', 'b/0.jpeg', 'b/2.bmp', 'b/deep/3.png')):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(40 + 8 * index, 56, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    (tmp_path / 'images' / 'a' / 'list.txt').write_text('none')
    (tmp_path / 'images' / 'a' / '.hidden.jpg').write_text('none')
    return tmp_path / 'images'


def make(model, images, shape=(64, 96), batch_size=2, workers=0):
    labels = images.parent / 'labels'
    return make_token_labels(model, str(images), str(labels), shape, batch_size, workers), labels


def files(labels):
    return {str(x.relative_to(labels)): x.read_bytes() for x in labels.rglob('*') if x.is_file()}


def test_maps_are_the_classifier_at_each_position(model, images):
    counts, labels = make(model, images)
    assert counts == (5, 0)
    assert sorted(files(labels)) == ['a/0.pt', 'a/1.pt', 'b/0.pt', 'b/2.pt', 'b/deep/3.pt']
    # The same image, read and normalised by other means.
    pixels = Image.open(images / 'b' / 'deep' / '3.png').convert('RGB').resize((96, 64), 3)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    inputs = torch.tensor((np.array(pixels) - mean) / std).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        tokens = model.backbone(inputs)[-1][0]
        logits = torch.einsum('kc,chw->khw', model.head.fc.weight, tokens)
        logits += model.head.fc.bias[:, None, None]
        whole = model(inputs)[0]
    found = read_token_labels(str(labels / 'b' / 'deep' / '3.pt'), 4, (2, 3))
    order = logits.argsort(0, descending=True)
    torch.testing.assert_close(found[0], logits.gather(0, order), rtol=1e-2, atol=2e-3)
    by_class = torch.zeros(4, 2, 3).scatter_(0, found[1].long(), found[0])
    torch.testing.assert_close(by_class.mean((1, 2)), whole, rtol=1e-2, atol=2e-3)


def test_goes_on_where_it_was(model, images):
    _, labels = make(model, images)
    before = files(labels)
    (labels / 'a' / '1.pt').unlink()
    kept = labels / 'b' / '2.pt'
    stamp = kept.stat().st_mtime_ns
    assert make(model, images)[0] == (1, 4)
    assert files(labels) == before and kept.stat().st_mtime_ns == stamp
    assert make(model, images)[0] == (0, 5)


def test_maps_of_another_grid_are_not_mixed(model, images):
    _, labels = make(model, images)
    (labels / 'a' / '1.pt').unlink()
    before = files(labels)
    with pytest.raises(UsageError, match=r'must have the grid \(4, 4\); it has \(2, 3\)'):
        make(model, images, shape=(128, 128))
    assert files(labels) == before


@pytest.mark.slow
def test_workers_change_nothing(model, images):
    _, labels = make(model, images)
    before = files(labels)
    shutil.rmtree(labels)
    make(model, images, workers=2)
    assert files(labels) == before


def test_an_image_that_cannot_be_read_is_named(model, images):
    path = images / 'a' / '1.PNG'
    path.write_bytes(b'no image')
    with pytest.raises(UsageError, match=f'{path}: LoadImageFromFile failed'):
        make(model, images)


def test_images_that_would_share_a_map_are_refused(images):
    shutil.copy(images / 'a' / '1.PNG', images / 'a' / '0.png')
    with pytest.raises(UsageError, match=r'a/0.jpg and .*a/0.png would share .*labels/a/0.pt;'):
        list_images(str(images), str(images.parent / 'labels'))


def test_folders_without_images_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / 'nowhere'):
        with pytest.raises(UsageError, match=f'{folder} must be a folder with images'):
            list_images(str(folder), 'labels')


def test_token_label_heads_make_maps_with_their_tokens_layer():
    classifier = build(load('biformer_token_label_demo'))
    assert find_classifier(classifier) is classifier.head.aux_head


def test_other_classifiers_are_refused(model):
    with pytest.raises(UsageError, match='this one has NoneType and NoneType; give another'):
        find_classifier(model.backbone)
    with pytest.raises(UsageError, match=r'with C = 64; the backbone returns \(1, 256, 2, 2\)'):
        dense_logits(model, torch.nn.Linear(64, 4), torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
