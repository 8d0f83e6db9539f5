"""Label maps follow what a pipeline does to their image."""

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from biformer_mm.datasets import token_label_transforms  # noqa: F401 - registers them
from biformer_mm.datasets.token_labels import TokenLabelError, write_token_labels

CELL, CELLS = 16, (12, 10)  # pixels of a cell; rows and columns of the label map
SIDE, STRIDE = 128, 32


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture
def image(tmp_path):
    """An image whose pixels, and its label map whose cells, name one of five classes."""
    classes = np.random.default_rng(0).integers(5, size=CELLS)
    logits = np.full((5, *CELLS), -50.0)
    np.put_along_axis(logits, classes[None], 50.0, 0)
    write_token_labels(str(tmp_path / 'labels' / 'a' / '0.pt'), torch.tensor(logits))
    pixels = classes.repeat(CELL, 0).repeat(CELL, 1)
    return dict(
        img=np.stack([pixels] * 3, -1).astype(np.uint8) * 50,
        img_path=str(tmp_path / 'train' / 'a' / '0.jpg'),
        img_shape=pixels.shape,
        gt_label=2,
    )


def pipeline(tmp_path, *before, **options):
    return Compose(
        [
            *before,
            dict(
                type='LoadTokenLabels',
                image_root=str(tmp_path / 'train'),
                label_root=str(tmp_path / 'labels'),
                num_classes=5,
                **options,
            ),
            dict(type='PackInputs', algorithm_keys=('gt_token_scores',)),
        ]
    )


CROP = dict(type='TokenLabelRandomResizedCrop', scale=SIDE, interpolation='nearest')


def flip(direction, prob=1.0):
    return dict(type='RandomFlip', prob=prob, direction=direction)


@pytest.mark.parametrize('direction', ['none', 'horizontal', 'vertical', 'diagonal'])
def test_labels_are_those_of_the_pixels(direction, image, tmp_path):
    """A token's most probable class is that of most of its pixels, where it is clear."""
    np.random.seed(0)
    before = [CROP] if direction == 'none' else [CROP, flip(direction)]
    steps = pipeline(tmp_path, *before)
    agree, sure = 0, 0
    for _ in range(40):
        packed = steps(dict(image))
        scores = packed['data_samples'].gt_token_scores
        assert scores.shape == (5, SIDE // STRIDE, SIDE // STRIDE)
        pixels = packed['inputs'][0].numpy() // 50
        for i, j in np.ndindex(*scores.shape[1:]):
            tile = pixels[i * STRIDE : (i + 1) * STRIDE, j * STRIDE : (j + 1) * STRIDE]
            counts = np.bincount(tile.ravel(), minlength=5)
            if counts.max() > 0.75 * tile.size:  # one class, clearly
                sure += 1
                agree += int(scores[:, i, j].argmax()) == counts.argmax()
    assert sure > 30 and agree == sure


def test_crop_keeps_the_box_of_its_pixels(image, tmp_path):
    """The box, cut out of the original by hand, is the crop."""
    rows, columns = np.mgrid[: CELLS[0] * CELL, : CELLS[1] * CELL]
    image['img'] = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    crop = Compose([CROP])
    np.random.seed(1)
    for _ in range(20):
        found = crop(dict(image))
        height, width = rows.shape
        left, top, right, bottom = found['crop_box']
        left, right, top, bottom = (
            round(x, 6) for x in (left * width, right * width, top * height, bottom * height)
        )
        assert all(float(x).is_integer() for x in (left, top, right, bottom))
        corners = found['img'][0, 0], found['img'][-1, -1]
        # Nearest neighbours lie within one step of the resampling from the edges.
        step = np.ceil([(bottom - top) / SIDE, (right - left) / SIDE])
        assert (corners[0][:2] >= (top, left)).all()
        assert (corners[0][:2] < (top, left) + step).all()
        assert (corners[1][:2] < (bottom, right)).all()
        assert (corners[1][:2] >= (bottom, right) - step).all()


def test_without_crop_and_flip_the_whole_map_is_taken(image, tmp_path):
    image['img'] = image['img'][:97, :64]  # cells of the last stage are rounded up
    scores = pipeline(tmp_path)(image)['data_samples'].gt_token_scores
    assert scores.shape == (5, 4, 2)
    torch.testing.assert_close(scores.sum(0), torch.ones(4, 2))


def test_crop_after_a_flip_is_refused(image, tmp_path):
    with pytest.raises(ValueError, match='must be cropped once, before it is flipped'):
        pipeline(tmp_path, flip('horizontal'), CROP)(image)


def test_wrong_maps_are_refused_by_name(image, tmp_path):
    with pytest.raises(TokenLabelError, match=r'labels/a/0.pt must have the grid \(18, 18\)'):
        pipeline(tmp_path, grid=(18, 18))(dict(image))
    image['img_path'] = str(tmp_path / 'train' / 'a' / '1.jpg')
    with pytest.raises(TokenLabelError, match='there is no label map .*labels/a/1.pt'):
        pipeline(tmp_path)(image)
