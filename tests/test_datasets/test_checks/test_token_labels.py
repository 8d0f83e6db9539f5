"""Label maps of token labelling: with their images, and file by file."""

import shutil

import pytest
import torch
from data_checks import config, problems

from biformer_mm.datasets.checks import Problem
from biformer_mm.datasets.token_labels import write_token_labels


@pytest.fixture
def root(copy):
    """Four images to train on, each of which has a label map of a 2 x 2 grid."""
    root = copy('imagenet')
    for folder in (root / 'train').iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()
    for path in (root / 'train').rglob('*.jpg'):
        write_token_labels(str(map_of(root, path)), torch.randn(4, 2, 2))
    return root


def map_of(root, image):
    return root / 'maps' / image.relative_to(root / 'train').with_suffix('.pt')


def first(root):
    """The first image and its map."""
    image = min((root / 'train').rglob('*.jpg'))
    return image, map_of(root, image)


def check(root, **options):
    cfg = config('biformer_token_label', root)
    step = cfg.train_dataloader.dataset.pipeline[-2]
    paths = dict(image_root=str(root / 'train'), label_root=str(root / 'maps'))
    step.update(**{**paths, 'grid': (2, 2), **options})
    return problems(cfg, ['train'])


def test_healthy_maps_have_no_problem(root):
    assert check(root) == [] and check(root, grid=None) == []


def test_image_without_a_map(root):
    _, path = first(root)
    path.unlink()
    (problem,) = check(root)
    assert problem[:2] == ('label-map-missing', str(path))
    assert problem.detail.startswith(f'there is no label map {path};')


def test_map_of_no_image(root):
    image, path = first(root)
    shutil.copy(path, path.with_name('other.pt'))
    assert check(root) == [
        Problem('label-map-unused', str(path.with_name('other.pt')), 'has no image')
    ]
    image.unlink()  # what the file list calls another image's
    assert ('label-map-unused', str(path)) in [x[:2] for x in check(root)]


def test_images_that_share_a_map(root):
    image, path = first(root)
    twin = image.with_suffix('.jpeg')
    shutil.copy(image, twin)
    assert check(root) == [Problem('label-map-shared', str(path), f'is of {twin} and of {image}')]


def test_images_elsewhere_than_said(root):
    found = check(root, image_root='elsewhere')
    assert [x.kind for x in found].count('label-map-missing') == 4
    assert 'is not below image_root=elsewhere' in found[0].detail


@pytest.mark.parametrize(
    'content, detail',
    [
        (torch.zeros(2, 4, 3, 3), 'must have the grid (2, 2); it has (3, 3)'),
        (torch.zeros(2, 5, 2, 2), 'must have the shape (2, 4, h, w); it has (2, 5, 2, 2)'),
        (torch.full((2, 4, 2, 2), 4.0), 'must have classes 0 to 3; it has numbers from 4 to 4'),
        (torch.full((2, 4, 2, 2), float('nan')), 'has numbers that are not finite'),
    ],
)
def test_map_that_is_wrong(content, detail, root):
    _, path = first(root)
    torch.save(content, path)
    assert check(root) == [Problem('label-map', str(path), f'{detail}; make it again')]
