"""From a config to the problems of its data sets."""

import cv2
import numpy as np
import pytest
from broken_data import IMAGES
from data_checks import config, kinds, problems

from biformer_mm.datasets.checks import plan, scan, scanning
from biformer_mm.utils.errors import UsageError


@pytest.mark.parametrize(
    'task, layout',
    [('retinanet_biformer', 'coco'), ('semantic_fpn_biformer', 'ade20k'), ('biformer', 'imagenet')],
)
def test_healthy_data_has_no_problem(healthy, task, layout):
    jobs = list(plan(config(task, healthy[layout]), ['train', 'val']))
    assert [len(job.items) for job in jobs] == [4, 2]
    found = problems(config(task, healthy[layout]))
    # Few images may leave a folder out, and with it shift the labels.
    assert [p for p in found if layout != 'imagenet'] == []


def class_folders(root, names):
    """Put a picture into a new folder of each class."""
    for name in names:
        path = root / name / 'one.png'
        path.parent.mkdir(parents=True)
        rng = np.random.default_rng(list(str(path).encode()))
        cv2.imwrite(str(path), rng.integers(0, 255, (32, 32, 3)))


def test_splits_with_other_class_folders(tmp_path):
    class_folders(tmp_path / 'train', ['cat', 'dog', 'fox'])
    class_folders(tmp_path / 'val', ['dog', 'fox'])
    cfg = config('biformer', tmp_path)
    (found,) = scan(list(plan(cfg, ['train', 'val'])), 1)
    assert found.split == 'val' and found.problem[:2] == ('split-folders', f'{tmp_path}/val')
    assert 'only there: cat' in found.problem.detail
    assert problems(cfg, ['val']) == []


def test_hidden_folder_is_the_only_cause_that_is_named(tmp_path):
    class_folders(tmp_path / 'train', ['cat', 'dog'])
    class_folders(tmp_path / 'val', ['.ipynb_checkpoints', 'cat', 'dog'])
    (problem,) = problems(config('biformer', tmp_path, metainfo=dict(classes=('cat', 'dog'))))
    assert problem[:2] == ('hidden-folder', f'{tmp_path}/val/.ipynb_checkpoints')


def test_wrapped_data_sets_are_each_read_once(healthy):
    cfg = config('retinanet_biformer', healthy['coco'])
    loader = cfg.train_dataloader
    loader.dataset = dict(
        type='RepeatDataset',
        times=9,
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                dict(type='ClassBalancedDataset', oversample_thr=1, dataset=loader.dataset),
                cfg.val_dataloader.dataset,
            ],
        ),
    )
    assert [len(job.items) for job in plan(cfg, ['train'])] == [4, 2]


@pytest.mark.parametrize(
    'change, message',
    [
        (
            dict(type='XMLDataset'),
            'train_dataloader.dataset must be a CocoDataset,'
            ' BaseSegDataset, CustomDataset or a subclass that loads as they do; got '
            'XMLDataset',
        ),
        (dict(type='CocoPanopticDataset'), 'got CocoPanopticDataset'),
        (dict(data_root='s3://bucket'), 'dataset.data_root must be on this machine, got s3:/'),
        (dict(colour='red'), 'CocoDataset cannot be built'),
    ],
)
def test_data_sets_that_cannot_be_read_are_refused(healthy, change, message):
    cfg = config('retinanet_biformer', healthy['coco'], **change)
    with pytest.raises(UsageError) as error:
        list(plan(cfg, ['train']))
    assert message in str(error.value)


def test_processes_find_the_same(copy, monkeypatch):
    root = copy('coco')
    for name, kind in zip(('000000', '000001', '000003'), IMAGES):
        IMAGES[kind](root / 'train' / f'{name}.jpg')
    cfg = config('retinanet_biformer', root)
    found = problems(cfg)
    assert kinds(found) == ['empty-file', 'missing', 'truncated']
    monkeypatch.setattr(scanning, '_WORTH_A_PROCESS', 2)
    assert problems(cfg, workers=2) == found
