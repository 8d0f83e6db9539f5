"""Small data sets of generated pictures, in the layouts that configs name."""

import json
from pathlib import Path

import torch

from biformer_mm.datasets import SHAPES_CLASSES, make_shapes
from biformer_mm.datasets.token_labels import write_token_labels

# Pictures. Detectors are slow, and need no two of them at once.
TRAIN, VAL = dict(coco=2, ade20k=4, imagenet=4), 2
# Of the 90 numbers of COCO's categories, 80 are in use.
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = [i for i in range(1, 91) if i not in _UNUSED]
_IMAGENET_CLASSES = 1000


def make_data(root: Path) -> Path:
    """Write ``data`` in ``root``, where tools find what configs name."""
    data = root / 'data'
    for layout, size in (('coco', 160), ('ade20k', 96), ('imagenet', 64)):
        _make(data / 'shapes' / layout, layout, size)
    for split in ('train', 'val'):  # the folders are the classes, with pictures or without
        for name in SHAPES_CLASSES:
            (data / 'shapes' / 'imagenet' / split / name).mkdir(exist_ok=True)
    _make_coco(data / 'coco')
    _make(data / 'ade' / 'ADEChallengeData2016', 'ade20k')
    _make_imagenet(data / 'imagenet')
    _label(data / 'shapes' / 'imagenet' / 'train', data / 'shapes' / 'token_labels', 4, 2)
    _label(data / 'imagenet' / 'train', data / 'imagenet' / 'token_labels', _IMAGENET_CLASSES, 18)
    return root


def _label(images: Path, labels: Path, num_classes: int, side: int) -> None:
    """Label maps of any content."""
    for path in images.rglob('*.jpg'):
        name = path.relative_to(images).with_suffix('.pt')
        write_token_labels(str(labels / name), torch.randn(num_classes, side, side))


def _make(root: Path, layout: str, size: int = 160) -> None:
    make_shapes(root, layout, TRAIN[layout], VAL, size)


def _make_coco(root: Path) -> None:
    """COCO 2017: its names of files, and its 80 categories."""
    from mmdet.datasets import CocoDataset

    names = CocoDataset.METAINFO['classes']
    _make(root, 'coco')
    for split in ('train', 'val'):
        (root / split).rename(root / f'{split}2017')
        path = root / 'annotations' / f'instances_{split}.json'
        content = json.loads(path.read_text())
        content['categories'] = [
            dict(id=i, name=name, supercategory='thing') for i, name in zip(_COCO_IDS, names)
        ]
        for annotation in content['annotations']:
            # A shape is a category near the beginning or the end.
            shape = annotation['category_id']
            annotation['category_id'] = _COCO_IDS[shape * (-1) ** shape]
        path.with_stem(f'instances_{split}2017').write_text(json.dumps(content))
        path.unlink()


def _make_imagenet(root: Path) -> None:
    """ImageNet as its archives are: a folder for each class to train on, and
    one folder with a list for validation."""
    _make(root, 'imagenet')
    for split in ('train', 'val'):
        for label, name in enumerate(SHAPES_CLASSES):
            if (root / split / name).exists():
                (root / split / name).rename(root / split / _folder(label))
    for label in range(_IMAGENET_CLASSES):
        (root / 'train' / _folder(label)).mkdir(exist_ok=True)
    lines = []
    for path in sorted((root / 'val').glob('*/*.jpg')):
        label = int(path.parent.name[1:])
        path.rename(root / 'val' / path.name)
        lines.append(f'{path.name} {label}\n')
    for folder in (root / 'val').glob('n*'):
        folder.rmdir()
    (root / 'meta').mkdir()
    (root / 'meta' / 'val.txt').write_text(''.join(lines))


def _folder(label: int) -> str:
    return f'n{label:08d}'
