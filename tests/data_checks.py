"""Check the demo's data sets, whole or file by file."""

from copy import deepcopy
from functools import lru_cache
from types import SimpleNamespace

from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.datasets.checks import plan, scan
from biformer_mm.datasets.checks.coco import read_coco
from biformer_mm.datasets.checks.items import Rules
from biformer_mm.datasets.checks.pictures import Loading

RULES = Rules(Loading('color', 'cv2'))


def config(task, root, **dataset):
    """The demo's config with its data in ``root``."""
    cfg = deepcopy(_demo(task))
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
        cfg[f'{split}_dataloader'].dataset.update(dataset)
    return cfg


@lru_cache(maxsize=None)
def _demo(task):
    return Config.fromfile(ROOT / 'configs' / f'{task}_demo.py')


def problems(cfg, splits=('train', 'val'), workers=1):
    return [found.problem for found in scan(list(plan(cfg, splits)), workers)]


def kinds(found):
    return sorted(problem.kind for problem in found)


def check_coco(path, with_masks=True):
    dataset = SimpleNamespace(
        ann_file=str(path),
        data_prefix=dict(img='train'),
        metainfo=dict(classes=('circle', 'square', 'triangle', 'star')),
        test_mode=False,
        filter_cfg=None,
    )
    return read_coco(dataset, [dict(type='LoadAnnotations', with_mask=with_masks)])
