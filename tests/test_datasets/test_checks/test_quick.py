"""Counting the files of data sets in the layouts of the recipes."""

import json

import pytest
from broken_data import annotations
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.datasets.checks import count, quick
from biformer_mm.datasets.checks.quick import Published

# Of the made-up folders below.
SMALL = {
    'CocoDataset': {
        'instances_train2017.json': Published(4, objects=8),
        'instances_val2017.json': Published(2, objects=4),
    },
    'ADE20KDataset': {
        'training': Published(3, 'ADE_train_{:08d}'),
        'validation': Published(2, 'ADE_val_{:08d}'),
    },
    'ImageNet': {
        'train': Published(6, folders=3, smallest=2),
        'val': Published(3, folders=3, smallest=1),
    },
}


def write_coco(root):
    for split, number in (('train', 4), ('val', 2)):
        names = [f'{i:012d}.jpg' for i in range(number)]
        fill(root / f'data/coco/{split}2017', names)
        path = root / f'data/coco/annotations/instances_{split}2017.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps(
                dict(
                    images=[dict(file_name=name) for name in names],
                    annotations=[{}] * number * 2,
                    categories=[],
                )
            )
        )


def write_ade(root):
    for split, short, number in (('training', 'train', 3), ('validation', 'val', 2)):
        for part, suffix in (('images', 'jpg'), ('annotations', 'png')):
            fill(
                root / f'data/ade/ADEChallengeData2016/{part}/{split}',
                (f'ADE_{short}_{i:08d}.{suffix}' for i in range(1, number + 1)),
            )


def write_imagenet(root):
    for split, number in (('train', 2), ('val', 1)):
        for name in ('n01', 'n02', 'n03'):
            fill(
                root / f'data/imagenet/{split}/{name}', (f'{name}_{i}.JPEG' for i in range(number))
            )


def fill(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


RECIPES = {
    'retinanet_biformer_t_1x': write_coco,
    'semantic_fpn_biformer_t_80k': write_ade,
    'biformer_t_in1k': write_imagenet,
}
COCO, ADE, IMAGENET = RECIPES


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The working folder, with complete data that are small as published."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quick, 'PUBLISHED', SMALL)
    for write in RECIPES.values():
        write(tmp_path)
    return tmp_path


def check(recipe, splits=('train', 'val'), **dataset):
    cfg = Config.fromfile(ROOT / 'configs' / f'{recipe}.py')
    for split in splits:
        cfg[f'{split}_dataloader'].dataset.update(dataset)
    found, pictures = count(cfg, splits)
    return [
        f'{x.split} {x.problem.kind} {x.problem.file}: {x.problem.detail}' for x in found
    ], pictures


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('recipe, pictures', [(COCO, 6), (ADE, 5), (IMAGENET, 9)])
def test_complete_data_has_no_problem(root, recipe, pictures):
    assert check(recipe) == ([], pictures)


def test_published_numbers():
    """Of COCO 2017, ADE20K (2016) and ImageNet-1K, by their own pages."""
    assert {
        name: [split.pictures for split in splits.values()]
        for name, splits in quick.PUBLISHED.items()
    } == dict(CocoDataset=[118287, 5000], ADE20KDataset=[20210, 2000], ImageNet=[1281167, 50000])


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'recipe, path, said',
    [
        (
            COCO,
            'data/coco/train2017/000000000002.jpg',
            'train missing data/coco/train2017: has 3 of 4 pictures; missing 1, '
            'such as 000000000002.jpg',
        ),
        (
            ADE,
            'data/ade/ADEChallengeData2016/images/training/ADE_train_00000003.jpg',
            'train missing data/ade/ADEChallengeData2016/images/training: has 2 of 3 '
            'pictures; missing 1, such as ADE_train_00000003.jpg',
        ),
        (
            ADE,
            'data/ade/ADEChallengeData2016/annotations/validation/ADE_val_00000001.png',
            'val map-missing data/ade/ADEChallengeData2016/annotations/validation: '
            'has 1 of 2 maps; missing 1, such as ADE_val_00000001.png',
        ),
    ],
)
def test_a_missing_file_is_named(root, recipe, path, said):
    (root / path).unlink()
    assert check(recipe)[0] == [said]


def test_a_class_with_too_few_pictures_is_named(root):
    (root / 'data/imagenet/train/n02/n02_0.JPEG').unlink()
    assert check(IMAGENET)[0] == [
        'train count data/imagenet/train: has 1 classes of fewer than 2 '
        'pictures, the published least: n02 (1)',
        'train count data/imagenet/train: has 5 of 6 pictures',
    ]


def test_an_absent_class_folder_is_named(root):
    (root / 'data/imagenet/val/n03/n03_0.JPEG').unlink()
    (root / 'data/imagenet/val/n03').rmdir()
    assert check(IMAGENET)[0] == [
        'val count data/imagenet/val: has 2 of 3 class folders',
        'val count data/imagenet/val: has 2 of 3 pictures',
        'val absent-class data/imagenet/val: has no folder of n03',
    ]


def test_pictures_that_are_not_sorted_into_folders_are_named(root):
    """ImageNet's archive of the validation pictures has no folders."""
    for path in (root / 'data/imagenet/val').glob('*/*'):
        path.rename(path.parents[1] / path.name)
        path.parent.rmdir()
    said = check(IMAGENET)[0][0]
    assert said == (
        'val count data/imagenet/val: has 0 of 3 class folders; 3 files lie '
        'beside them, such as n01_0.JPEG: unpack them, one folder a class'
    )


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'recipe, path, source',
    [
        (COCO, 'data/coco/val2017/', 'COCO 2017 from'),
        (COCO, 'data/coco/annotations/instances_val2017.json', 'COCO 2017 from'),
        (ADE, 'data/ade/ADEChallengeData2016/annotations/validation', 'ADE20K from'),
        (IMAGENET, 'data/imagenet/val', 'ImageNet-1K from'),
    ],
)
def test_a_missing_split_is_one_line(root, recipe, path, source):
    (root / path).rename(root / 'away')
    (said,) = check(recipe)[0]
    assert said.startswith(f'val missing {path}: is not there; get {source}')


def test_without_the_root_nothing_else_is_said(root):
    (root / 'data/coco').rename(root / 'away')
    assert [line.partition(';')[0] for line in check(COCO)[0]] == [
        'train missing data/coco/: is not there',
        'val missing data/coco/: is not there',
        'val missing data/coco/annotations/instances_val2017.json: is not there',
    ]


def test_an_annotation_file_that_was_cut_is_named(root):
    path = root / 'data/coco/annotations/instances_val2017.json'
    with annotations(path) as content:
        content['images'].pop()
        content['annotations'].pop()
    assert check(COCO)[0] == [
        f'val count data/coco/annotations/{path.name}: lists 1 of the 2 pictures',
        f'val count data/coco/annotations/{path.name}: lists 3 of the 4 objects',
    ]
    path.write_text(path.read_text()[:-5])
    (said,) = check(COCO)[0]
    assert said.startswith(f'val json data/coco/annotations/{path.name}: ')


def test_lists_of_imagenet_are_compared_with_the_files(root):
    meta = root / 'data/imagenet/meta'
    meta.mkdir()
    (meta / 'val.txt').write_text('n01/n01_0.JPEG 0\nn09/gone.JPEG 1\n')
    assert check(IMAGENET)[0] == [
        'val count data/imagenet/meta/val.txt: lists 2 of the 3 pictures',
        'val missing data/imagenet/val/n09: has 0 of 1 pictures; missing 1, such as gone.JPEG',
    ]


def test_other_classes_are_another_data_set(root):
    """Its numbers are not the published ones."""
    path = root / 'data/coco/annotations/instances_train2017.json'
    with annotations(path) as content:
        content['images'].pop()
    classes = dict(metainfo=dict(classes=('screw', 'nut')))
    assert check(COCO, ['train'], **classes) == ([], 3)
    assert check(COCO, ['train'])[0] != []


# Data sets of the user's own


def demo(task, root):
    cfg = Config.fromfile(ROOT / 'configs' / f'{task}_demo.py')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    cfg.val_evaluator.pop('ann_file', None)
    return [
        (x.problem.kind, x.problem.file, x.problem.detail) for x in count(cfg, ['train', 'val'])[0]
    ]


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'task, layout, path, kind, detail',
    [
        (
            'retinanet_biformer',
            'coco',
            'val/000001.jpg',
            'missing',
            'has 1 of 2 pictures; missing 1, such as 000001.jpg',
        ),
        (
            'semantic_fpn_biformer',
            'ade20k',
            'annotations/training/000003.png',
            'map-missing',
            'has 3 of 4 maps; missing 1, such as 000003.png',
        ),
    ],
)
def test_own_lists_are_compared_with_the_files(copy, task, layout, path, kind, detail):
    root = copy(layout)
    assert demo(task, root) == []
    (root / path).unlink()
    assert demo(task, root) == [(kind, str((root / path).parent), detail)]


def test_own_class_folders(copy):
    root = copy('imagenet')
    for split in ('train', 'val'):
        for name in ('circle', 'square', 'star', 'triangle'):
            (root / split / name).mkdir(exist_ok=True)
            (root / split / name / 'one.jpg').touch()
    assert demo('biformer', root) == []
    for path in (root / 'val/star').iterdir():
        path.unlink()
    assert demo('biformer', root) == [
        (
            'absent-class',
            f'{root}/val',
            '1 of 4 classes do not occur: star; they count in no figure',
        )
    ]
    (root / 'val/star').rmdir()
    ((kind, file, detail),) = demo('biformer', root)
    assert (kind, file) == ('split-folders', f'{root}/val') and 'only there: star' in detail


@pytest.mark.parametrize(
    'task, layout, hidden',
    [
        ('biformer', 'imagenet', 'train/@eaDir/1.jpg'),
        ('semantic_fpn_biformer', 'ade20k', 'images/training/.ipynb_checkpoints/1-checkpoint.jpg'),
    ],
)
def test_hidden_folders_are_named(copy, task, layout, hidden):
    root = copy(layout)
    (root / hidden).parent.mkdir()
    (root / hidden).touch()
    found = [problem[:2] for problem in demo(task, root)]
    assert ('hidden-folder', str((root / hidden).parent)) in found


def test_pictures_are_not_opened(copy):
    root = copy('coco')
    (root / 'train/000000.jpg').write_bytes(b'')
    assert demo('retinanet_biformer', root) == []
