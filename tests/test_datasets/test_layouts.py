import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.utils import register_all_modules
from mmpretrain.datasets import ImageNet
from mmseg.datasets import BaseSegDataset
from mmseg.utils import register_all_modules as register_mmseg
from pycocotools.coco import COCO

from biformer_mm.datasets import (
    SHAPES_CLASSES,
    SHAPES_PALETTE,
    layouts,
    make_scene,
    make_shapes,
    scene_rng,
)

SIZE = 96
COUNTS = dict(num_train=40, num_val=10)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', image_size=SIZE, **COUNTS)


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory):
    return make_shapes(
        tmp_path_factory.mktemp('data') / 'shapes', 'ade20k', image_size=SIZE, **COUNTS
    )


@pytest.fixture(scope='module', params=['train', 'val'])
def coco(root, request):
    return COCO(str(root / 'annotations' / f'instances_{request.param}.json')), request.param


def files(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def test_layout(root, coco):
    api, split = coco
    assert len(api.imgs) == COUNTS[f'num_{split}']
    assert {image['file_name'] for image in api.imgs.values()} == {
        path.name for path in (root / split).iterdir()
    }
    assert [(c['id'], c['name'], c['supercategory']) for c in api.cats.values()] == [
        (i, name, 'shape') for i, name in enumerate(SHAPES_CLASSES, 1)
    ]
    for image in api.imgs.values():
        assert cv2.imread(str(root / split / image['file_name'])).shape == (SIZE, SIZE, 3)
        assert (image['height'], image['width']) == (SIZE, SIZE)
        assert 2 <= len(api.imgToAnns[image['id']]) <= 6


def test_annotations_are_the_visible_masks(coco):
    """Polygons rasterise to the scene's masks; box and area are those of the
    mask; masks do not overlap."""
    api, split = coco
    for index in api.imgs:
        instances = make_scene(scene_rng(0, split, index), SIZE).instances
        found = api.imgToAnns[index]
        assert [ann['category_id'] for ann in found] == [label + 1 for label, _ in instances]
        masks = np.stack([api.annToMask(ann) for ann in found]).astype(bool)
        assert masks.sum(axis=0).max() == 1
        for ann, mask, (_, expected) in zip(found, masks, instances):
            np.testing.assert_array_equal(mask, expected)
            rows, columns = np.nonzero(mask)
            low, high = (
                np.array([columns.min(), rows.min()]),
                np.array([columns.max(), rows.max()]) + 1,
            )
            assert ann['bbox'] == [*low, *(high - low)]
            points = np.concatenate(ann['segmentation']).reshape(-1, 2)
            np.testing.assert_array_equal(points.min(axis=0), low + 0.25)
            np.testing.assert_array_equal(points.max(axis=0), high - 0.25)
            assert ann['area'] == mask.sum() and ann['iscrowd'] == 0


def test_polygons_of_holes_and_pieces():
    mask_utils = pytest.importorskip('pycocotools.mask')
    mask = np.zeros((40, 40), bool)
    mask[2:30, 0:30] = True
    mask[5:9, 4:9] = mask[12, 12] = mask[20:28, 20:29] = False  # holes
    mask[23:25, 23:25] = mask[35:, 38:] = True  # an island in a hole, a piece in the corner
    polygons = layouts._polygons(mask)
    assert all(len(polygon) >= 6 for polygon in polygons)
    decoded = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, 40, 40)))
    np.testing.assert_array_equal(decoded, mask)


def test_same_arguments_same_bytes(root, tmp_path):
    again = make_shapes(str(tmp_path / 'again'), image_size=SIZE, **COUNTS)
    assert files(again) == files(root)


def test_pictures_do_not_depend_on_the_counts(root, tmp_path):
    few = make_shapes(tmp_path / 'few', num_train=3, num_val=2, image_size=SIZE)
    pictures = {name: data for name, data in files(few).items() if name.endswith('.jpg')}
    assert len(pictures) == 5 and pictures.items() <= files(root).items()


def test_existing_data_set_is_reused(root, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    monkeypatch.setattr(layouts, 'make_scene', lambda *_: pytest.fail('a scene was drawn again'))
    assert make_shapes(root, image_size=SIZE, **COUNTS) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


@pytest.mark.parametrize(
    'change', [dict(seed=1), dict(num_val=11), dict(image_size=64), dict(layout='ade20k')]
)
def test_other_parameters_are_refused(root, change):
    before = files(root)
    with pytest.raises(
        FileExistsError, match='root must be free or hold this very data set: .*choose another root'
    ):
        make_shapes(root, **{**COUNTS, 'image_size': SIZE, **change})
    assert files(root) == before


@pytest.mark.parametrize(
    'content', [{}, {'notes.txt': 'mine'}, {'shapes.json': '{"seed": 0}'}, {'shapes.json': '{'}]
)
def test_foreign_folder_is_refused(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FileExistsError, match='nothing was changed'):
        make_shapes(tmp_path, num_train=1, num_val=1, image_size=32)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == content


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, OSError])
def test_interruption_leaves_nothing(tmp_path, monkeypatch, error):
    drawn = []

    def failing(rng, image_size):
        drawn.append(image_size)
        if len(drawn) == 3:
            assert len(list(tmp_path.rglob('*.jpg'))) == 2  # so the writer was at work
            raise error('stop')
        return make_scene(rng, image_size)

    monkeypatch.setattr(layouts, 'make_scene', failing)
    with pytest.raises(error, match='stop'):
        make_shapes(tmp_path / 'shapes', num_train=5, num_val=1, image_size=32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('same', [True, False])
def test_root_that_appears_meanwhile(tmp_path, monkeypatch, same):
    """The data set another process finished first is used if it is the same,
    refused if not, and stays as it is."""
    arguments = dict(num_train=2, num_val=1, image_size=32)
    write = layouts._WRITERS['coco']

    def overtaken(part, split, scenes):
        write(part, split, scenes)
        if split == 'val':
            monkeypatch.setitem(layouts._WRITERS, 'coco', write)
            make_shapes(tmp_path / 'shapes', **arguments, seed=0 if same else 1)

    monkeypatch.setitem(layouts._WRITERS, 'coco', overtaken)
    if same:
        make_shapes(tmp_path / 'shapes', **arguments)
    else:
        with pytest.raises(FileExistsError, match='root must be free'):
            make_shapes(tmp_path / 'shapes', **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']
    assert json.loads((tmp_path / 'shapes' / 'shapes.json').read_text())['seed'] == (
        0 if same else 1
    )


@pytest.mark.parametrize(
    'argument, message',
    [
        (dict(layout='voc'), "layout must be one of coco, ade20k, imagenet; got 'voc'"),
        (dict(num_train=0), 'num_train must be an integer of at least 1, got 0'),
        (dict(num_val=-3), 'num_val must be an integer of at least 1, got -3'),
        (dict(num_train=2.5), 'num_train must be an integer of at least 1, got 2.5'),
        (dict(image_size=31), 'image_size must be an integer of at least 32, got 31'),
        (dict(image_size='160'), "image_size must be an integer of at least 32, got '160'"),
        (dict(seed=-1), 'seed must be an integer of at least 0, got -1'),
    ],
)
def test_wrong_arguments(tmp_path, argument, message):
    with pytest.raises(ValueError, match=message):
        make_shapes(tmp_path / 'shapes', **argument)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('split, folder', [('train', 'training'), ('val', 'validation')])
def test_ade20k_layout_has_the_scenes_index_maps(ade20k, split, folder):
    """Pictures as in COCO layout; every pixel is the background or the class
    that can be seen there."""
    names = [f'{i:06d}' for i in range(COUNTS[f'num_{split}'])]
    images, maps = (ade20k / part / folder for part in ('images', 'annotations'))
    assert sorted(p.name for p in images.iterdir()) == [f'{name}.jpg' for name in names]
    assert sorted(p.name for p in maps.iterdir()) == [f'{name}.png' for name in names]
    for index, name in enumerate(names):
        scene = make_scene(scene_rng(0, split, index), SIZE)
        expected = np.full((SIZE, SIZE), 1)
        for label, mask in scene.instances:
            expected[mask] = 2 + label
        found = cv2.imread(str(maps / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, expected)


def test_layouts_share_their_pictures(root, ade20k):
    for split, folder in (('train', 'training'), ('val', 'validation')):
        for path in (root / split).iterdir():
            assert path.read_bytes() == (ade20k / 'images' / folder / path.name).read_bytes()


def test_mmseg_reads_ade20k_layout(ade20k):
    register_mmseg(init_default_scope=False)
    data = BaseSegDataset(
        data_root=str(ade20k),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        metainfo=dict(classes=('background', *SHAPES_CLASSES)),
        reduce_zero_label=True,  # as ADE20K's configs have it
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
    )
    assert len(data) == COUNTS['num_val']
    scene = make_scene(scene_rng(0, 'val', 3), SIZE)
    found = data[3]['gt_seg_map']
    assert set(np.unique(found)) == {0} | {label + 1 for label, _ in scene.instances}
    for label, mask in scene.instances:
        assert (found[mask] == label + 1).all()


def test_imagenet_layout_has_one_shape_in_each_picture(tmp_path):
    root = make_shapes(tmp_path / 'shapes', 'imagenet', image_size=SIZE, **COUNTS)
    data = ImageNet(
        data_root=str(root), split='train', metainfo=dict(classes=sorted(SHAPES_CLASSES))
    )
    assert len(data) == COUNTS['num_train']
    for index in range(len(data)):
        sample = data.get_data_info(index)
        path = Path(sample['img_path'])
        ((label, _),) = make_scene(
            scene_rng(0, 'train', int(path.stem)), SIZE, **layouts.ONE_LARGE
        ).instances
        assert path.parent.name == SHAPES_CLASSES[label]
        assert data.CLASSES[sample['gt_label']] == SHAPES_CLASSES[label]


def test_mmdet_reads_it(root):
    register_all_modules()
    data = CocoDataset(
        data_root=str(root),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=SHAPES_CLASSES, palette=SHAPES_PALETTE),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    )
    assert len(data) == COUNTS['num_train'] and len(SHAPES_PALETTE) == len(SHAPES_CLASSES)
    for index in (0, 7):
        sample, scene = data[index], make_scene(scene_rng(0, 'train', index), SIZE)
        assert sample['gt_bboxes_labels'].tolist() == [label for label, _ in scene.instances]
        np.testing.assert_array_equal(
            sample['gt_masks'].to_ndarray(), [mask for _, mask in scene.instances]
        )
        error = np.abs(
            sample['img'][..., [0, 1, 2, 2, 1, 0]].astype(int) - np.tile(scene.image, 2)
        ).mean(axis=(0, 1))
        assert (
            error[:3].max() < 8 < error[3:].max()
        )  # JPEG keeps the content and the order of the channels
