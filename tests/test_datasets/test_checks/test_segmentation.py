import json
import shutil

import cv2
import numpy as np
import pytest
from data_checks import config, kinds, problems
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from tool_runner import ROOT

from biformer_mm.datasets.checks import plan, segmentation
from biformer_mm.datasets.checks.segmentation import ignored_labels, map_rules


@pytest.mark.parametrize(
    'reduce_zero_label, ignore_index, allowed',
    [
        (True, 255, {0, 1, 2, 3, 4, 5, 255}),
        (False, 255, {0, 1, 2, 3, 4, 255}),
        (True, 99, {1, 2, 3, 4, 5, 100}),
        (False, 99, {0, 1, 2, 3, 4, 99}),
    ],
)
def test_allowed_labels(healthy, reduce_zero_label, ignore_index, allowed):
    cfg = config('semantic_fpn_biformer', healthy['ade20k'], reduce_zero_label=reduce_zero_label)
    cfg.model.decode_head.ignore_index = ignore_index
    (job,) = plan(cfg, ['train'])
    assert job.rules.labels == allowed


def test_a_subset_of_the_classes_ignores_the_others(healthy):
    """ADE20K's 150 classes, of which the model is taught two."""
    cfg = config('semantic_fpn_biformer', healthy['ade20k'])
    cfg.model.decode_head.num_classes = 2
    dataset = cfg.train_dataloader.dataset
    dataset.type = 'ADE20KDataset'
    dataset.metainfo = dict(_delete_=True, classes=('wall', 'tree'))
    cfg.train_dataloader.dataset.metainfo.pop('_delete_')
    (job,) = plan(cfg, ['train'])
    assert job.rules.labels == set(range(151)) | {255}
    assert len(job.rules.unlabelled) == len(job.rules.labels) - 2


def test_map_without_an_image_and_no_image_at_all(copy):
    root = copy('ade20k')
    (root / 'images' / 'training' / '000003.jpg').unlink()
    shutil.rmtree(root / 'images' / 'validation')
    (root / 'images' / 'validation').mkdir()
    found = problems(config('semantic_fpn_biformer', root))
    assert kinds(found) == ['map-unused', 'map-unused', 'map-unused', 'no-images']
    assert found[0].file == f'{root}/annotations/training/000003.png'


@pytest.mark.parametrize(
    'heads, metrics, ignored',
    [
        ({}, [], {255}),
        (dict(decode_head=dict(type='FPNHead')), [dict(type='IoUMetric')], {255}),
        (dict(decode_head=dict(ignore_index=0)), [dict(ignore_index=0)], {0}),  # HSI-Drive
        (dict(decode_head=dict(ignore_index=0)), [], {0}),
        (dict(decode_head=dict(ignore_index=0)), [dict(type='IoUMetric')], set()),
        (dict(decode_head=[dict(), dict()], auxiliary_head=dict(ignore_index=9)), [], set()),
        (dict(decode_head=dict(ignore_index=None)), [], set()),
    ],
)
def test_only_what_all_ignore_is_ignored(heads, metrics, ignored):
    assert ignored_labels(heads, metrics) == ignored


def seg_config(root, reduce_zero_label=False, **dataset):
    """The demo's config for data of two classes."""
    cfg = config('semantic_fpn_biformer', root, reduce_zero_label=reduce_zero_label, **dataset)
    for split in ('train', 'val'):
        leaf = cfg[f'{split}_dataloader'].dataset
        leaf.metainfo = dict(classes=('ground', 'shape'), palette=[(0, 0, 0), (9, 9, 9)])
        for step in leaf.pipeline:
            if step['type'] == 'LoadAnnotations':
                step['reduce_zero_label'] = reduce_zero_label
    return cfg


def build(cfg, split='train'):
    return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def relabel(root, change, split='training'):
    """Replace the pixels of all maps by ``change(pixels)``."""
    for path in sorted((root / 'annotations' / split).iterdir()):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), change(pixels).astype(np.uint8))


@pytest.fixture
def root(copy):
    """Eight pictures with maps of 0 and 1."""
    root = copy('ade20k')
    for i in range(4):
        for part, suffix in (('images', 'jpg'), ('annotations', 'png')):
            folder = root / part / 'training'
            shutil.copy(folder / f'{i:06d}.{suffix}', folder / f'{i + 4:06d}.{suffix}')
    relabel(root, lambda pixels: pixels > 1)
    return root


def both(cfg):
    """Kinds that are found by reading all maps, and before a training starts."""
    whole = problems(cfg, ['train'])
    return [
        sorted({(p.kind, p.file) for p in found})
        for found in (whole, map_rules(build(cfg), cfg.model))
    ]


@pytest.mark.parametrize(
    'change, reduce_zero_label',
    [
        (lambda pixels: pixels, False),
        (lambda pixels: np.where(np.eye(64), 255, pixels), False),
        (lambda pixels: np.where(np.eye(64), 0, pixels + 1), True),
    ],
    ids=['binary', 'Cityscapes', 'ADE20K'],
)
def test_healthy_maps(root, change, reduce_zero_label):
    relabel(root, change)
    assert both(seg_config(root, reduce_zero_label=reduce_zero_label)) == [[], []]


def test_masks_of_0_and_255(root):
    """Object pixels are ignored: only the ground is learnt."""
    relabel(root, lambda pixels: pixels * 255)
    folder = f'{root}/annotations/training'
    cfg = seg_config(root)
    assert both(cfg) == [[('convention', folder)], [('only-one-class', folder)]]
    (problem,) = map_rules(build(cfg), cfg.model)
    assert problem.detail.endswith('only ground occurs; 255 is ignored: is it one of them?')


def test_few_maps_may_be_without_an_object(root):
    for path in sorted((root / 'images' / 'training').iterdir())[4:]:
        path.unlink()
        (root / 'annotations' / 'training' / f'{path.stem}.png').unlink()
    relabel(root, lambda pixels: np.where(np.eye(64), 255, 0))
    folder = f'{root}/annotations/training'
    assert both(seg_config(root)) == [[('absent-class', folder)]] * 2


def test_zero_that_is_a_class_but_reduced(root):
    """IoU is 100 if whatever is scored has one label."""
    cfg = seg_config(root, reduce_zero_label=True)
    folder = f'{root}/annotations/training'
    assert both(cfg) == [[('only-one-class', folder)]] * 2
    assert (
        'reduce_zero_label=True leaves 0 unlabelled'
        in next(map_rules(build(cfg), cfg.model)).detail
    )


def test_problems_of_single_maps_that_follow_are_left_out(root):
    relabel(root, lambda pixels: pixels + 1)
    (problem,) = problems(seg_config(root), ['train'])
    assert problem[:2] == ('convention', f'{root}/annotations/training')
    assert 'must be 0 to 1; the maps have 1 to 2; set reduce_zero_label=True' in problem.detail


def test_few_maps_are_read_before_a_training(root, monkeypatch):
    cfg = seg_config(root)
    dataset = build(cfg)
    read = []
    load = type(dataset.pipeline.transforms[1]).transform
    monkeypatch.setattr(
        type(dataset.pipeline.transforms[1]),
        'transform',
        lambda self, results: read.append(1) or load(self, results),
    )
    assert list(map_rules(dataset, cfg.model)) == []
    assert len(read) == 1
    relabel(root, lambda pixels: pixels * 0)
    monkeypatch.setattr(segmentation, '_MOST_MAPS', 3)
    (problem,) = map_rules(dataset, cfg.model)
    assert len(read) == 4
    assert problem.kind == 'absent-class' and problem.detail.startswith('in 3 of 8 maps, ')


def test_maps_that_cannot_be_read_are_passed_over(root):
    """Loading them for training names them."""
    cfg = seg_config(root)
    dataset = build(cfg)
    for path in (root / 'annotations' / 'training').iterdir():
        path.write_bytes(b'')
    assert list(map_rules(dataset, cfg.model)) == []


def test_a_test_set_without_maps_is_passed_over(root):
    cfg = seg_config(root)
    cfg.train_dataloader.dataset.data_prefix = dict(img_path='images/training')
    assert list(map_rules(build(cfg), cfg.model)) == []


def test_maps_that_are_jpegs(root):
    for path in (root / 'annotations' / 'training').iterdir():
        cv2.imwrite(str(path.with_suffix('.jpg')), cv2.imread(str(path), 0) * 100)
        path.unlink()
    cfg = seg_config(root, seg_map_suffix='.jpg')
    assert set(kinds(problems(cfg, ['train']))) == {'map-lossy'}
    (problem,) = map_rules(build(cfg), cfg.model)
    assert problem.kind == 'map-lossy' and problem.file.startswith(f'{root}/annotations/training/')


def test_pictures_with_another_extension(root):
    folder = root / 'images' / 'training'
    for i in range(3):
        (folder / f'{i:06d}.jpg').rename(folder / f'{i:06d}.JPG')
    (folder / '000005.webp').touch()  # beside a .jpg of this name
    whole, before = both(seg_config(root))
    assert whole == before == [('passed-over', str(folder))]
    (problem,) = map_rules(build(seg_config(root)), {})
    assert '3 do not and are not read (3 .JPG), such as 000000.JPG' in problem.detail


def test_maps_and_other_kinds_beside_the_pictures_are_not_passed_over(tmp_path):
    for i in range(3):
        for name in ('_rgb.jpg', '_depth.png', '_rgb_labels.png'):
            (tmp_path / f'{i}{name}').touch()
    dataset = BaseSegDataset(
        data_prefix=dict(img_path=str(tmp_path), seg_map_path=str(tmp_path)),
        img_suffix='_rgb.jpg',
        seg_map_suffix='_rgb_labels.png',
        lazy_init=True,
    )
    assert list(segmentation.name_rules(dataset)) == []


def test_hidden_folder_with_pictures(root):
    for part, name in (('images', '000000.jpg'), ('annotations', '000000.png')):
        folder = root / part / 'training'
        (folder / '.ipynb_checkpoints').mkdir()
        shutil.copy(folder / name, folder / '.ipynb_checkpoints' / f'1-checkpoint{name[-4:]}')
    hidden = ('hidden-folder', f'{root}/images/training/.ipynb_checkpoints')
    assert both(seg_config(root)) == [[hidden], [hidden]]


@pytest.mark.parametrize('split', ['training', 'validation'])
def test_ade_like_street_scenes_are_healthy(split):
    """CamVid, with 0 for unlabelled, and 11 classes of which some are rare."""
    data = ROOT.parent / 'shared' / 'data' / 'miniade'
    if not data.exists():
        pytest.skip('needs shared/data/miniade')
    dataset = BaseSegDataset(
        data_root=str(data),
        data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
        metainfo=dict(classes=tuple(json.loads((data / 'classes.json').read_text())['classes'])),
        reduce_zero_label=True,
        pipeline=[dict(type='mmseg.LoadAnnotations')],
    )
    assert list(map_rules(dataset, {})) == []
