"""Label maps: their files, and their crops against bilinear sampling written out."""

import math
import os
import pickle

import numpy as np
import pytest
import torch

from biformer_mm.datasets.token_labels import (
    TokenLabelError,
    crop_token_labels,
    label_path,
    read_token_labels,
    write_token_labels,
)

CLASSES = 12


def random_labels(grid, seed=0):
    """Scores and classes, five different ones for each cell."""
    rng = np.random.default_rng(seed)
    labels = np.empty((2, 5, *grid))
    labels[0] = rng.normal(3, 2, (5, *grid))
    for cell in np.ndindex(*grid):
        labels[(1, slice(None), *cell)] = rng.permutation(CLASSES)[:5]
    return labels


def sample(plane, y, x):
    """Bilinear interpolation between the centres of cells; the outermost go on outwards."""
    height, width = plane.shape
    y, x = (min(max(at - 0.5, 0), size - 1) for at, size in ((y, height), (x, width)))
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = plane[y0, x0] * (1 - dx) + plane[y0, x1] * dx
    bottom = plane[y1, x0] * (1 - dx) + plane[y1, x1] * dx
    return top * (1 - dy) + bottom * dy


def cropped(labels, grid, box):
    """The soft labels of a crop, in float64: the mean of evenly spread samples of each cell."""
    height, width = labels.shape[2:]
    dense = np.zeros((CLASSES, height, width))
    for cell in np.ndindex(height, width):
        for score, label in zip(labels[(0, slice(None), *cell)], labels[(1, slice(None), *cell)]):
            dense[(int(label), *cell)] = score
    left, top, right, bottom = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    cell_h, cell_w = (bottom - top) / grid[0], (right - left) / grid[1]
    rows, columns = math.ceil(cell_h), math.ceil(cell_w)
    out = np.zeros((CLASSES, *grid))
    for k, i, j in np.ndindex(*out.shape):
        samples = [
            sample(
                dense[k],
                top + cell_h * (i + (row + 0.5) / rows),
                left + cell_w * (j + (column + 0.5) / columns),
            )
            for row in range(rows)
            for column in range(columns)
        ]
        out[k, i, j] = np.mean(samples)
    out = np.exp(out - out.max(0))
    return out / out.sum(0)


@pytest.mark.parametrize(
    'box',
    [
        (0.0, 0.0, 1.0, 1.0),
        (0.25, 0.125, 0.75, 0.5),
        (0.013, 0.37, 0.981, 0.93),
        (0.4, 0.4, 0.45, 0.48),  # less than a cell
    ],
)
@pytest.mark.parametrize('grid', [(3, 3), (2, 5)])
def test_crop_is_the_mean_of_bilinear_samples(grid, box):
    labels = random_labels((9, 7))
    scores = crop_token_labels(torch.tensor(labels, dtype=torch.float32), CLASSES, grid, box)
    assert scores.dtype == torch.float32 and scores.shape == (CLASSES, *grid)
    expected = torch.tensor(cropped(labels, grid, box))
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)


def test_whole_map_at_its_own_grid_is_unchanged():
    labels = random_labels((4, 6))
    scores = crop_token_labels(torch.tensor(labels, dtype=torch.float32), CLASSES, (4, 6))
    for cell in np.ndindex(4, 6):
        logits = torch.zeros(CLASSES, dtype=torch.float64)
        at = (slice(None), *cell)
        logits[torch.tensor(labels[(1, *at)]).long()] = torch.tensor(labels[(0, *at)])
        torch.testing.assert_close(scores[at].double(), logits.softmax(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('num_classes, top_k', [(1000, 5), (3, 3)])
def test_what_is_written_is_read(num_classes, top_k, tmp_path):
    logits = torch.randn(num_classes, 4, 6)
    path = tmp_path / 'a' / 'b' / '0.pt'
    write_token_labels(str(path), logits)
    assert [x.name for x in path.parent.iterdir()] == ['0.pt']
    labels = read_token_labels(str(path), num_classes, (4, 6))
    assert labels.shape == (2, top_k, 4, 6) and labels.dtype == torch.float32
    order = logits.argsort(0, descending=True)[:top_k]
    assert torch.equal(labels[1].long(), order)
    torch.testing.assert_close(labels[0], logits.gather(0, order), rtol=1e-3, atol=1e-3)


def test_classes_beyond_half_precision_are_exact(tmp_path):
    logits = torch.zeros(5000, 1, 1)
    logits[4093] = 1
    write_token_labels(str(tmp_path / '0.pt'), logits)
    assert read_token_labels(str(tmp_path / '0.pt'), 5000)[1, 0, 0, 0] == 4093


def test_published_format_is_read(tmp_path):
    """Half precision, and a permuted view, as LV-ViT's tool saves it."""
    labels = torch.tensor(random_labels((18, 18)))
    path = tmp_path / 'n01440764_10026.pt'
    torch.save(labels.permute(0, 2, 3, 1).contiguous().half().permute(0, 3, 1, 2), path)
    assert torch.equal(read_token_labels(str(path), CLASSES, (18, 18)), labels.half().float())


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(content, path):
        open(path, 'wb').write(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError):
        write_token_labels(str(tmp_path / '0.pt'), torch.zeros(6, 2, 2))
    assert os.listdir(tmp_path) == []


def test_label_path_mirrors_the_image():
    assert label_path('data/train/a/b.c.JPEG', 'data/train', 'labels') == 'labels/a/b.c.pt'
    assert label_path('data/train/0.jpg', 'data/train/', 'labels') == 'labels/0.pt'
    with pytest.raises(TokenLabelError, match='data/val/0.jpg is not below image_root=data/train,'):
        label_path('data/val/0.jpg', 'data/train', 'labels')


def change(**at):
    """Valid labels, but for one number of scores or classes."""
    labels = torch.tensor(random_labels((2, 3)))
    for part, value in at.items():
        labels[dict(scores=0, classes=1)[part], 2, 1, 1] = value
    return labels


WRONG = {
    'shape': (
        torch.zeros(2, 4, 2, 3),
        r'must have the shape \(2, 5, h, w\); it has \(2, 4, 2, 3\)',
    ),
    'empty': (torch.zeros(2, 5, 0, 3), r'must have the shape .*; it has \(2, 5, 0, 3\)'),
    'grid': (torch.zeros(2, 5, 3, 3), r'must have the grid \(2, 3\); it has \(3, 3\)'),
    'integers': (torch.zeros(2, 5, 2, 3).long(), 'must be a floating-point tensor .* torch.int64'),
    'dict': (dict(labels=1), 'must be a floating-point tensor .*; it is dict'),
    'nan': (change(scores=math.nan), 'has numbers that are not finite'),
    'infinite': (change(scores=math.inf), 'has numbers that are not finite'),
    'high': (change(classes=CLASSES), 'must have classes 0 to 11; it has numbers .* to 12'),
    'negative': (change(classes=-1), 'must have classes 0 to 11; it has numbers from -1 to'),
    'fraction': (change(classes=1.5), 'must have classes 0 to 11'),
}


@pytest.mark.parametrize('content, message', WRONG.values(), ids=WRONG)
def test_wrong_content_is_refused_by_name(content, message, tmp_path):
    path = tmp_path / '0.pt'
    torch.save(content, path)
    with pytest.raises(TokenLabelError, match=f'the label map {path} {message}.*; make it again'):
        read_token_labels(str(path), CLASSES, (2, 3))


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    path = tmp_path / '0.pt'
    with pytest.raises(TokenLabelError, match=f'there is no label map {path};'):
        read_token_labels(str(path), CLASSES)
    torch.save(torch.zeros(2, 5, 2, 3), path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(TokenLabelError, match=f'the label map {path} cannot be read as data'):
        read_token_labels(str(path), CLASSES)


class Runs:
    def __reduce__(self):
        return os.mkdir, ('made',)


@pytest.mark.parametrize('save', [torch.save, lambda x, path: pickle.dump(x, open(path, 'wb'))])
def test_nothing_in_a_file_is_run(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Runs(), '0.pt')
    with pytest.raises(TokenLabelError, match='the label map 0.pt cannot be read as data'):
        read_token_labels('0.pt', CLASSES)
    assert not os.path.exists('made')
