"""Training on data that is broken: it goes on as documented, or stops and
names the file."""

import logging

import cv2
import numpy as np
import pytest
from broken_data import IMAGES, annotations, resize
from mmengine.config import Config
from tool_runner import ROOT, run_tool

from biformer_mm.datasets.checks.guard import DataError
from biformer_mm.engine.runner import launch

pytestmark = pytest.mark.faults

STOPS = {'missing', 'empty-file', 'truncated', 'no-image'}
IMAGE = 'train/000000.jpg'
TRAIN = 'annotations/instances_train.json'
NAN, INF = float('nan'), float('inf')


def train(task, root, **options):
    """Train the demo's model for an epoch and evaluate; the losses."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{task}_demo.py')
    cfg.launcher, cfg.work_dir = 'none', str(root.parent / 'work_dir')
    cfg.experiment_name = cfg.visualizer.name = cfg.work_dir
    cfg.log_level = logging.ERROR
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
        if cfg.get(f'{split}_evaluator', {}).get('ann_file'):
            cfg[f'{split}_evaluator'].ann_file = str(root / 'annotations' / 'instances_val.json')
    cfg.merge_from_dict(options)
    runner = launch.build_runner(cfg)
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2
    return losses


def stops(task, root, path, why=''):
    """Check that training stops, on a file, for a reason."""
    with pytest.raises(DataError) as error:
        train(task, root)
    message = str(error.value)
    assert str(path) in message.partition(': ')[0]
    assert why in message
    assert message.endswith('check_dataset.py CONFIG lists all such files')


@pytest.mark.parametrize('kind', IMAGES)
@pytest.mark.parametrize(
    'task, layout, name',
    [
        ('retinanet_biformer', 'coco', IMAGE),
        ('semantic_fpn_biformer', 'ade20k', 'images/training/000000.jpg'),
        ('biformer', 'imagenet', None),
    ],
)
def test_image(copy, task, layout, name, kind):
    root = copy(layout)
    path = root / name if name else next(root.glob('train/*/*.jpg'))
    IMAGES[kind](path)
    if kind in STOPS and not (kind == 'missing' and layout != 'coco'):
        stops(task, root, path, 'LoadImageFromFile failed: ')
    elif kind in ('tiny', 'exif-rotated') and layout == 'coco':
        stops(task, root, path, 'by its annotations 64 x 64')
    elif kind in ('tiny', 'exif-rotated') and layout == 'ade20k':
        stops(task, root, path, 'the segmentation map must be ')
    elif kind in ('tiny', 'exif-rotated'):
        # The demo's pipeline does not bring pictures to one size; that of the
        # recipes does.
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=64),
            dict(type='PackInputs'),
        ]
        losses = train(task, root, **{'train_dataloader.dataset.pipeline': pipeline})
        assert np.isfinite(losses).all()
    else:
        assert np.isfinite(train(task, root)).all()


@pytest.mark.parametrize(
    'fields',
    [
        dict(bbox=[10, 10, 0, 5]),
        dict(bbox=[500, 500, 9, 9]),
        dict(bbox=[60, 60, 40, 40]),
        dict(bbox=[NAN, 5, 9, 9]),
        dict(area=0),
        dict(area=NAN),
        dict(segmentation=[[1, 1, 9, 9, 5, 5, 3]]),
        dict(category_id=99),
        dict(image_id=99),
    ],
)
def test_objects_that_training_copes_with(copy, fields):
    root = copy('coco')
    for split in ('train', 'val'):
        with annotations(root / f'annotations/instances_{split}.json') as c:
            c['annotations'][0].update(fields)
    assert np.isfinite(train('mask_rcnn_biformer', root)).all()


def test_short_polygons_are_left_out_but_cannot_be_evaluated(copy):
    root = copy('coco')
    for split in ('train', 'val'):
        with annotations(root / f'annotations/instances_{split}.json') as c:
            c['annotations'][0]['segmentation'] = [[1, 1, 9, 9]]
    assert np.isfinite(train('retinanet_biformer', root)).all()
    stops('mask_rcnn_biformer', root, root / 'val' / '000000.jpg', 'is not of 6 or more')


@pytest.mark.parametrize(
    'fields, why',
    [
        (dict(bbox=[5, 5, INF, 9]), 'is not of finite numbers'),
        # They would take all memory.
        (dict(segmentation=[[1, 1, 9, 9, 5, NAN]]), 'numbers within 1000000'),
        (dict(segmentation=[[1, 1, 9, 9, 5, 1e12]]), 'numbers within 1000000'),
        (dict(segmentation=[]), 'LoadAnnotations failed: KeyError: mask, in '),
    ],
)
def test_objects_that_name_their_image(copy, fields, why):
    root = copy('coco')
    with annotations(root / TRAIN) as content:
        content['annotations'][0].update(fields)
    stops('mask_rcnn_biformer', root, root / IMAGE, why)


@pytest.mark.parametrize(
    'change',
    [
        lambda content: content['annotations'][0].pop('bbox'),
        lambda content: content['annotations'][0].pop('area'),
        lambda content: content['annotations'][0].update(bbox=[1, 2, 3]),
        lambda content: content['annotations'][1].update(id=1),
        lambda content: content['images'][0].pop('width'),
        lambda content: content.pop('categories'),
        lambda content: content.update(images=[], annotations=[]),
    ],
)
def test_annotations_that_name_their_file(copy, change):
    root = copy('coco')
    with annotations(root / TRAIN) as content:
        change(content)
    stops('retinanet_biformer', root, f'{TRAIN} in {root}', 'loading failed')


def test_unreadable_annotations_name_their_file(copy):
    root = copy('coco')
    IMAGES['truncated'](root / TRAIN)
    stops('retinanet_biformer', root, f'{TRAIN} in {root}', 'loading failed')


def test_labels_shifted_by_a_class_that_is_missing(copy):
    root = copy('coco')
    with annotations(root / TRAIN) as content:
        content['categories'][1]['name'] = 'cube'
    with pytest.raises(DataError) as error:
        train('retinanet_biformer', root)
    assert str(error.value).startswith(
        f"{root / TRAIN}: 3 of its categories are among the config's 4"
    )


def test_images_and_whole_splits_without_objects(copy):
    root = copy('coco')
    with annotations(root / TRAIN) as content:
        content['annotations'] = []
    assert np.isfinite(train('retinanet_biformer', root)).all()


@pytest.mark.parametrize(
    'line, file, why',
    [
        ('{} 7', '{}', 'label 7, but the model has 4 classes'),
        ('{} -1', '{}', 'label -1, but the model has 4 classes'),
        ('{}', 'list.txt in ', 'loading failed: ValueError'),
    ],
)
def test_lists_of_labelled_images(copy, line, file, why):
    root = copy('imagenet')
    name = str(next(root.glob('train/*/*.jpg')).relative_to(root / 'train'))
    (root / 'list.txt').write_text(f'{name} 0\n{line.format(name)}\n')
    with pytest.raises(DataError) as error:
        train('biformer', root, **{'train_dataloader.dataset.ann_file': 'list.txt'})
    assert file.format(name) in str(error.value).partition(': ')[0]
    assert why in str(error.value)


def put(value, dtype=np.uint8):

    def change(path):
        index_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(dtype)
        index_map[:9] = value
        cv2.imwrite(str(path), index_map)

    return change


@pytest.mark.parametrize('folder', ['training', 'validation'])
@pytest.mark.parametrize(
    'change, why',
    [
        (put(6), 'has labels [5] for 5 classes'),
        (lambda path: resize(path, 32, 32), 'must be (64, 64)'),
        (lambda path: cv2.imwrite(str(path), cv2.imread(str(path))), 'it is (64, 64, 3)'),
        (IMAGES['missing'], 'LoadAnnotations failed: FileNotFoundError'),
        (IMAGES['empty-file'], 'LoadAnnotations failed: '),
        (IMAGES['truncated'], 'LoadAnnotations failed: '),
    ],
)
def test_segmentation_maps_that_name_their_file(copy, change, why, folder):
    root = copy('ade20k')
    path = root / 'annotations' / folder / '000000.png'
    change(path)
    with pytest.raises(DataError) as error:
        train('semantic_fpn_biformer', root)
    assert str(path) in str(error.value).partition(': ')[0]
    assert why in str(error.value)


@pytest.mark.parametrize('value', [0, 255])
def test_segmentation_maps_without_a_label(copy, value):
    root = copy('ade20k')
    path = root / 'annotations' / 'training' / '000000.png'
    cv2.imwrite(str(path), np.full((64, 64), value, np.uint8))
    assert np.isfinite(train('semantic_fpn_biformer', root)).all()


def test_a_worker_process_names_the_file_last(copy):
    """By tools/train.py, and with a pipeline of a loop that starts its
    workers early."""
    root = copy('ade20k')
    path = root / 'images' / 'training' / '000001.jpg'
    IMAGES['empty-file'](path)
    config = root.parent / 'config.py'
    config.write_text(
        f"_base_ = '{ROOT}/configs/semantic_fpn_biformer_demo.py'\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', "
        'max_iters=4)\n'
        'param_scheduler = []\n'
    )
    output = run_tool(
        'train.py',
        config,
        '--work-dir',
        root.parent / 'work_dir',
        '--cfg-options',
        f'train_dataloader.dataset.data_root={root}',
        f'val_dataloader.dataset.data_root={root}',
        'train_dataloader.num_workers=1',
        'train_dataloader.batch_size=2',
        cwd=root.parent,
        ok=False,
    )
    last = output.strip().splitlines()[-1]
    assert last.startswith(f'train.py: error: {path}, ')
    assert 'LoadImageFromFile failed' in last
    assert 'Traceback' not in output
