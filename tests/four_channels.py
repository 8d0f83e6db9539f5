"""The demo's data and configs with a fourth channel that matters."""

import json
from pathlib import Path
from typing import List

import numpy as np
from PIL import Image

from biformer_mm.datasets import make_shapes

LAYOUTS = dict(det='coco', seg='ade20k', cls='imagenet')


def make_data(root: Path, task: str, **sizes: int) -> Path:
    """Make a data set of PNGs whose alpha channels are noise."""
    make_shapes(root, LAYOUTS[task], **sizes)
    rng = np.random.default_rng(0)
    for path in sorted(root.rglob('*.jpg')):
        add_alpha(path, path.with_suffix('.png'), rng)
        path.unlink()
    for path in root.glob('annotations/*.json'):
        content = json.loads(path.read_text())
        for image in content['images']:
            image['file_name'] = image['file_name'].replace('.jpg', '.png')
        path.write_text(json.dumps(content))
    return root


def add_alpha(source: Path, target: Path, rng: np.random.Generator) -> None:
    """Write a picture as PNG with a noisy alpha channel."""
    colours = np.asarray(Image.open(source).convert('RGB'))
    alpha = rng.integers(0, 256, (*colours.shape[:2], 1), np.uint8)
    Image.fromarray(np.concatenate([colours, alpha], axis=2)).save(target)


def options(task: str, data: Path = Path('data')) -> List[str]:
    """Return --cfg-options for four channels, and for data of :func:`make_data`."""
    found = ['model.backbone.in_channels=4']
    if task == 'cls':
        found += [f'data_preprocessor.{key}=[100,110,120,130]' for key in ('mean', 'std')]
    else:  # one mean, three or none
        found += [f'model.data_preprocessor.{key}=[100]' for key in ('mean', 'std')]
        found.append('model.data_preprocessor.bgr_to_rgb=False')  # mmdet's drops a channel
    for split in ('train', 'val', 'test'):
        dataset = f'{split}_dataloader.dataset'
        found += [f'{dataset}.data_root={data}', f'{dataset}.pipeline.0.color_type=unchanged']
        if task == 'seg':
            found.append(f'{dataset}.img_suffix=.png')
        if task == 'det' and split != 'train':
            found.append(f'{split}_evaluator.ann_file={data}/annotations/instances_val.json')
    return found
