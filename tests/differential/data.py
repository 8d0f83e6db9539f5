"""Tiny data sets in the layouts of COCO, ADE20K, ImageNet and In-shop."""

import json
import os
import sys
from pathlib import Path

from mmdet.datasets import CocoDataset

from biformer_mm.datasets import make_shapes
from biformer_mm.datasets.shapes import SHAPES_CLASSES

NUM_TRAIN, NUM_VAL = 4, 2


def make_data(root: Path) -> None:
    """Write the data sets, where the frameworks' configs look for them.

    Args:
        root: In place of ``data``.
    """
    for layout in ('coco', 'ade20k', 'imagenet'):
        make_shapes(root / 'shapes' / layout, layout, NUM_TRAIN, NUM_VAL, 64)
    (root / 'ade').mkdir()
    (root / 'ade/ADEChallengeData2016').symlink_to(root / 'shapes/ade20k')
    _make_coco(root / 'coco', root / 'shapes/coco')
    _make_imagenet(root / 'imagenet', root / 'shapes/imagenet')
    _make_multi_label(root / 'shapes/imagenet')
    _make_inshop(root / 'inshop', root / 'shapes/imagenet')


def _make_coco(root: Path, shapes: Path) -> None:
    """The shapes, called by the first names of COCO, which has 80."""
    categories = [
        dict(id=i, name=name) for i, name in enumerate(CocoDataset.METAINFO['classes'], 1)
    ]
    for split in ('train', 'val'):
        (root / 'annotations').mkdir(parents=True, exist_ok=True)
        (root / f'{split}2017').symlink_to(shapes / split)
        content = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        content['categories'] = categories
        (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))
    # The labelled and the unlabelled part, for semi-supervised training.
    (root / 'semi_anns').mkdir()
    train = json.loads((root / 'annotations/instances_train2017.json').read_text())
    for name, images in (('1@10', train['images'][:2]), ('1@10-unlabeled', train['images'][2:])):
        ids = {image['id'] for image in images}
        annotations = [x for x in train['annotations'] if x['image_id'] in ids]
        (root / f'semi_anns/instances_train2017.{name}.json').write_text(
            json.dumps(dict(train, images=images, annotations=annotations))
        )


def _make_imagenet(root: Path, shapes: Path) -> None:
    """A picture in each of 1000 folders."""
    for split in ('train', 'val'):
        pictures = sorted((shapes / split).glob('*/*.jpg'))
        for i in range(1000):
            folder = root / split / f'n{i:08d}'
            folder.mkdir(parents=True)
            os.link(pictures[i % len(pictures)], folder / 'picture.jpg')


def _make_multi_label(shapes: Path) -> None:
    """Annotations of two labels for each picture of a classifier's data."""
    for split in ('train', 'val'):
        items = [
            dict(img_path=str(path), gt_label=[i % 4, (i + 1) % 4])
            for i, path in enumerate(sorted((shapes / split).glob('*/*.jpg')))
        ]
        (shapes / f'{split}.json').write_text(
            json.dumps(dict(metainfo=dict(classes=list(SHAPES_CLASSES)), data_list=items))
        )


def _make_inshop(root: Path, shapes: Path) -> None:
    """In-shop Clothes Retrieval: things to learn, to ask for and to find."""
    (root / 'Eval').mkdir(parents=True)
    (root / 'Img').symlink_to(shapes)
    lines = ['', 'image_name item_id evaluation_status']
    for split, uses in (('train', ['train']), ('val', ['query', 'gallery'])):
        for i, path in enumerate(sorted((shapes / split).glob('*/*.jpg'))):
            name = path.relative_to(shapes)
            lines += [f'{name} id_{split}_{i} {use}' for use in uses]
    (root / 'Eval/list_eval_partition.txt').write_text('\n'.join(lines))


if __name__ == '__main__':
    make_data(Path(sys.argv[1]))
