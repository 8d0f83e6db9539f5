"""The configs that docs/own_dataset.md prints, on data laid out as it says."""
import re
import shutil

import cv2
import numpy as np
import pytest
from broken_data import annotations
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.datasets.checks import plan, scan

PAGE = (ROOT / 'docs' / 'own_dataset.md').read_text(encoding='utf-8')
BOXES, MASKS, MAPS, FOLDERS = re.findall(r'```python\n(.*?)```', PAGE, re.S)


def two_categories(root):
    for path in root.glob('annotations/*.json'):
        with annotations(path) as content:
            content['categories'] = [
                dict(id=i, name=name)
                for i, name in enumerate(('screw', 'nut'), 1)
            ]
            for x in content['annotations']:
                x['category_id'] = 1 + x['category_id'] % 2


def two_classes(root):
    for path in root.glob('annotations/*/*.png'):
        index_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.minimum(index_map, 2))


def two_folders(root):
    for split in ('train', 'val'):
        found = sorted(root.glob(f'{split}/*/*.jpg'))
        for i, path in enumerate(found):
            new = root / split / ('cat', 'dog')[i % 2] / f'{i}.jpg'
            new.parent.mkdir(exist_ok=True)
            path.rename(new)
        for folder in (root / split).iterdir():
            if folder.name not in ('cat', 'dog'):
                shutil.rmtree(folder)


def mask_rcnn():
    """'In place of RetinaNet's config in everything above'."""
    model = 'model = dict(bbox_head=dict(num_classes=2))\n'
    assert model in BOXES
    return BOXES.replace(model, MASKS).replace('retinanet', 'mask_rcnn')


@pytest.mark.parametrize('layout, change, text', [
    ('coco', two_categories, BOXES),
    ('coco', two_categories, mask_rcnn()),
    ('ade20k', two_classes, MAPS),
    ('imagenet', two_folders, FOLDERS),
])
def test_config_fits_the_data(copy, tmp_path, layout, change, text):
    root = copy(layout)
    change(root)
    config = tmp_path / 'mine.py'
    config.write_text(
        text.replace('/path/to/biformer_mm',
                     str(ROOT)).replace('/path/to/my_data/', f'{root}/'))
    jobs = list(plan(Config.fromfile(config), ['train', 'val', 'test']))
    assert [len(job.items) for job in jobs] == [4, 2, 2]
    assert scan(jobs, 1) == []
