"""Every kind of problem, made on purpose in the demo's data sets."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from broken_data import IMAGES, annotations, resize
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from pycocotools.mask import encode, frPyObjects
from tool_runner import ROOT

from biformer_mm.datasets.checks import KINDS, SEVERITIES, Problem, plan, scan, scanning
from biformer_mm.datasets.checks.coco import read_coco
from biformer_mm.datasets.checks.coco_objects import _wrong_counts
from biformer_mm.datasets.checks.guard import guard_data
from biformer_mm.datasets.checks.items import Item, Rules, check_item
from biformer_mm.datasets.checks.pictures import Loading
from biformer_mm.utils.errors import UsageError

RULES = Rules(Loading('color', 'cv2'))
NAN, INF = float('nan'), float('inf')


def config(task, root, **dataset):
    """The demo's config with its data in ``root``."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{task}_demo.py')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
        cfg[f'{split}_dataloader'].dataset.update(dataset)
    return cfg


def problems(cfg, splits=('train', 'val'), workers=1):
    return [found.problem for found in scan(list(plan(cfg, splits)), workers)]


def kinds(found):
    return sorted(problem.kind for problem in found)


def test_severities_are_known():
    assert set(KINDS.values()) == set(SEVERITIES)
    assert Problem('cmyk', 'a.jpg', '').severity == 'warning'


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


# Images


@pytest.mark.parametrize('kind', IMAGES)
def test_image(copy, kind):
    path = copy('coco') / 'train' / '000000.jpg'
    IMAGES[kind](path)
    found = check_item(RULES, Item(str(path)))
    expected = {
        'corrupt': ['damaged'],
        '16-bit': ['16-bit', 'wrong-extension'],
        'alpha': ['alpha', 'wrong-extension'],
    }.get(kind, [kind])
    assert kinds(found) == expected
    assert {problem.file for problem in found} == {str(path)}


@pytest.mark.parametrize('keep', [0.2, 0.5, 0.9, -2])
@pytest.mark.parametrize(
    'suffix, options', [('.jpg', []), ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), ('.png', [])]
)
def test_image_cut_short(tmp_path, suffix, options, keep):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 64, 3), np.uint8)
    data = cv2.imencode(suffix, image, options)[1].tobytes()
    path = tmp_path / f'a{suffix}'
    path.write_bytes(data)
    assert check_item(RULES, Item(str(path))) == []
    path.write_bytes(data[: int(keep * len(data)) if keep > 0 else keep])
    found = kinds(check_item(RULES, Item(str(path))))
    if suffix == '.png' and keep == -2:  # of a checksum
        assert found == ['corrupt']
    else:
        assert found == ['truncated']


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_what_follows_the_picture_does_not_matter(tmp_path, suffix):
    """Cameras add data of their own; a file system that crashed adds zeros."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = cv2.imencode(suffix, image)[1].tobytes()
    path = tmp_path / f'a{suffix}'
    path.write_bytes(data + bytes(100))
    assert check_item(RULES, Item(str(path))) == []
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    assert kinds(check_item(RULES, Item(str(path)))) == ['truncated']


def test_thumbnail_is_not_taken_for_the_picture(tmp_path):
    """It has an end of its own."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = cv2.imencode('.jpg', image)[1].tobytes()
    thumbnail = cv2.imencode('.jpg', image[:16, :16])[1].tobytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    whole = data[:2] + segment + data[2:]
    path = tmp_path / 'a.jpg'
    path.write_bytes(whole)
    assert check_item(RULES, Item(str(path))) == []
    path.write_bytes(whole[: len(whole) * 3 // 4])
    assert kinds(check_item(RULES, Item(str(path)))) == ['truncated']


def test_png_with_a_flipped_bit_is_corrupt(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = bytearray(cv2.imencode('.png', image)[1].tobytes())
    data[2000] ^= 1
    path = tmp_path / 'a.png'
    path.write_bytes(bytes(data))
    (problem,) = check_item(RULES, Item(str(path)))
    assert problem.kind == 'corrupt'
    assert 'CRC error' in problem.detail


def test_turned_image_has_the_size_that_training_sees(copy):
    path = copy('coco') / 'train' / '000000.jpg'
    IMAGES['exif-rotated'](path)  # 42 x 64 in the file
    assert kinds(check_item(RULES, Item(str(path), (64, 42)))) == ['exif-rotated']
    _, problem = check_item(RULES, Item(str(path), (42, 64)))
    assert problem.kind == 'size'
    assert '64 x 42 pixels, 42 x 64 by its annotations' in problem.detail
    unturned = Rules(Loading('color_ignore_orientation', 'cv2'))
    assert kinds(check_item(unturned, Item(str(path), (42, 64)))) == ['exif-rotated']


# Annotations in COCO's format


def check_coco(path, with_masks=True):
    dataset = SimpleNamespace(
        ann_file=str(path),
        data_prefix=dict(img='train'),
        metainfo=dict(classes=('circle', 'square', 'triangle', 'star')),
    )
    return read_coco(dataset, with_masks)


def change_first(**fields):
    return lambda content: content['annotations'][0].update(fields)


def drop_first(field):
    return lambda content: content['annotations'][0].pop(field)


def same_id(part):

    def change(content):
        content[part][1]['id'] = content[part][0]['id']

    return change


def drop_objects_of_first(content):
    first = content['images'][0]['id']
    content['annotations'] = [x for x in content['annotations'] if x['image_id'] != first]


COCO = [
    ('box-empty', change_first(bbox=[10, 10, 0, 5])),
    ('box-empty', change_first(bbox=[20, 20, -9, 9])),
    ('box-outside', change_first(bbox=[64, 10, 9, 9])),
    ('box-outside', change_first(bbox=[10, -9, 9, 9])),
    ('box-over-edge', change_first(bbox=[60, 10, 6, 9])),
    ('box-over-edge', change_first(bbox=[-2, 10, 9, 9])),
    ('box-invalid', change_first(bbox=[NAN, 5, 9, 9])),
    ('box-invalid', change_first(bbox=[5, 5, INF, 9])),
    ('box-invalid', change_first(bbox=[5, 5, 9])),
    ('box-invalid', change_first(bbox=['5', '5', '9', '9'])),
    ('box-missing', drop_first('bbox')),
    ('box-missing', change_first(bbox=None)),
    ('area', change_first(area=0)),
    ('area', change_first(area=NAN)),
    ('area', change_first(area=-(10**400))),
    ('field', drop_first('area')),
    ('field', drop_first('category_id')),
    ('field', lambda content: content['images'][0].pop('width')),
    ('field', lambda content: content['images'][0].update(height=0)),
    ('field', lambda content: content.pop('categories')),
    ('field', lambda content: content['annotations'].append(None)),
    ('polygon', change_first(segmentation=[[1, 1, 9, 9]])),
    ('polygon', change_first(segmentation=[[1, 1, 9, 9, 5, 5, 3]])),
    ('mask-invalid', change_first(segmentation=[[1, 1, 9, 9, 5, NAN]])),
    ('mask-invalid', change_first(segmentation=dict(size=[32, 32], counts=[1024]))),
    ('mask-invalid', change_first(segmentation=dict(size=[64, 64], counts=[1024]))),
    ('mask-invalid', change_first(segmentation=dict(size=[64, 64], counts='zz'))),
    ('mask-invalid', change_first(segmentation='zz')),
    ('mask-missing', drop_first('segmentation')),
    ('mask-missing', change_first(segmentation=[])),
    ('unknown-category', change_first(category_id=99)),
    (
        'unknown-image',
        lambda content: content['annotations'].append(
            dict(content['annotations'][0], id=10**6, image_id=99)
        ),
    ),
    ('duplicate-annotation-id', same_id('annotations')),
    ('duplicate-file', lambda content: content['images'].append(dict(content['images'][0], id=99))),
    ('image-without-objects', drop_objects_of_first),
    ('no-objects', lambda content: content.update(annotations=[])),
    ('class-missing', lambda content: content['categories'][1].update(name='cube')),
    ('class-order', lambda content: content['categories'].reverse()),
    (
        'class-twice',
        lambda content: content['categories'].append(dict(content['categories'][0], id=9)),
    ),
]
# What cannot but come along
IMPLIED = {
    'duplicate-file': 'image-without-objects',
    'no-objects': 'image-without-objects',
    'class-missing': 'unused-category',
}


@pytest.mark.parametrize('kind, change', COCO)
def test_annotations(copy, kind, change):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        change(content)
    found = check_coco(path)[1]
    assert set(kinds(found)) - {IMPLIED.get(kind)} == {kind}
    assert {problem.file for problem in found} == {str(path)}
    if kind.startswith(('box', 'mask', 'polygon', 'area')):
        (problem,) = found
        assert problem.detail.startswith('annotation 1 of 000000.jpg: ')


def test_whole_numbers_may_be_written_as_fractions(copy):
    """As some programs do; mmdet and pycocotools take 640.0 for 640."""
    root = copy('coco')
    for split in ('train', 'val'):
        path = root / 'annotations' / f'instances_{split}.json'
        with annotations(path) as content:
            for part in content.values():
                for entry in part:
                    entry.update(
                        {
                            key: float(entry[key])
                            for key in ('id', 'image_id', 'category_id', 'width', 'height')
                            if key in entry
                        }
                    )
    cfg = config('mask_rcnn_biformer', root)
    assert problems(cfg) == []
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    guard_data(dataset, cfg)
    assert all(len(x['data_samples'].gt_instances) for x in dataset)


@pytest.mark.parametrize(
    'part, fields, said',
    [
        ('images', dict(width=64.5), 'a width in whole pixels; it has width=64.5'),
        ('images', dict(id=1.5), 'an id, a whole number or a text; it has id=1.5'),
        ('annotations', dict(id=NAN), 'an id, a whole number or a text; it has id=nan'),
        (
            'annotations',
            dict(category_id=[1]),
            "a category_id, a category's id; it has category_id=[1]",
        ),
    ],
)
def test_what_a_field_must_be_is_said(copy, part, fields, said):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        content[part][0].update(fields)
    (problem,) = check_coco(path)[1]
    assert problem.kind == 'field'
    assert problem.detail == f'{part}[0] must have {said}'


@pytest.mark.parametrize(
    'area, outcome',
    [
        (-1, 'is left out'),
        (-INF, 'is left out'),
        (INF, 'is trained on, makes mAP wrong'),
        (NAN, 'is trained on, makes mAP wrong'),
    ],
)
def test_outcome_of_a_wrong_area_is_what_mmdet_does(copy, area, outcome):
    root = copy('coco')
    path = root / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        change_first(area=area)(content)
        image_id = content['annotations'][0]['image_id']
        count = sum(x['image_id'] == image_id for x in content['annotations'])
    (problem,) = check_coco(path)[1]
    assert problem.detail.endswith(f': area {area}, {outcome}')
    cfg = config('retinanet_biformer', root)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    left = count - (outcome == 'is left out')
    assert len(dataset.get_data_info(0)['instances']) == left


def test_masks_matter_only_where_they_are_trained_on(copy):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        drop_first('segmentation')(content)
    assert check_coco(path, with_masks=False)[1] == []


def test_run_length_codes_of_either_kind_are_read(copy):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    mask = np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8)
    mask[:, 20:50] = 0  # a long run
    runs = np.flatnonzero(np.diff(mask.ravel('F'), prepend=0)).tolist()
    plain = np.diff([0, *runs, mask.size]).tolist()
    packed = encode(np.asfortranarray(mask))['counts'].decode()
    for counts, expected in (
        (plain, []),
        (packed, []),
        (plain[1:], ['mask-invalid']),
        (plain[:-1], ['mask-invalid']),
        (packed[:-1], ['mask-invalid']),
    ):
        with annotations(path) as content:
            change_first(segmentation=dict(size=[64, 64], counts=counts))(content)
        assert kinds(check_coco(path)[1]) == expected


@pytest.mark.parametrize(
    'counts, said',
    [
        ('', 'do not sum to its pixels'),
        ('0', 'do not sum to its pixels'),
        ('\ud800', 'do not sum to its pixels'),
        ([5000], 'do not sum to its pixels'),
        ([-1, 4097], 'do not sum to its pixels'),
        ([2**70], 'do not sum to its pixels'),
        (['a'], 'do not sum to its pixels'),
        ([[4096]], 'do not sum to its pixels'),
        # pycocotools reads on behind these, and writes where it must not.
        ('zzzo', 'end in the middle of a number'),
        ('o\0' + 'o' * 4000, 'end in the middle of a number'),
        (None, 'are a NoneType, not a list or a text'),
        ({}, 'are a dict, not a list or a text'),
    ],
)
def test_a_wrong_run_length_code_is_explained(copy, counts, said):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        change_first(segmentation=dict(size=[64, 64], counts=counts))(content)
    (problem,) = check_coco(path)[1]
    assert problem.kind == 'mask-invalid'
    assert problem.detail == f"annotation 1 of 000000.jpg: mask's counts {said}"


def test_run_length_codes_agree_with_their_runs():
    """Of random codes, some of them damaged, against the sum of the runs."""
    rng = np.random.default_rng(0)
    right = 0
    for i in range(300):
        runs = rng.integers(0, 60, rng.integers(1, 9)).tolist()
        off = int(rng.integers(-2, 3)) if i % 2 else 0
        code = frPyObjects(dict(size=[1, sum(runs)], counts=runs), 1, sum(runs))['counts']
        pixels = sum(runs) + off
        for counts in (runs, code.decode()):
            fits = pixels > 0 and _wrong_counts(counts, pixels) is None
            assert fits == (pixels > 0 and off == 0), (runs, off)
        right += off == 0
    assert 150 <= right < 300


def test_images_of_one_id(copy):
    path = copy('coco') / 'annotations' / 'instances_train.json'
    with annotations(path) as content:
        same_id('images')(content)
    # The second's objects have lost their image.
    assert set(kinds(check_coco(path)[1])) == {'duplicate-image-id', 'unknown-image'}


@pytest.mark.parametrize('text', ['', '{"images": [', 'PK\x03\x04', '[]'])
def test_unreadable_annotations(tmp_path, text):
    path = tmp_path / 'a.json'
    path.write_text(text)
    items, (problem,) = check_coco(path)
    assert items == []
    assert problem.kind == ('field' if text == '[]' else 'json')
    assert problem.file == str(path)


def test_file_of_another_size_than_annotated(copy):
    root = copy('coco')
    resize(root / 'train' / '000001.jpg', 48, 40)
    (problem,) = problems(config('retinanet_biformer', root))
    assert problem == Problem(
        'size', f'{root}/train/000001.jpg', '48 x 40 pixels, 64 x 64 by its annotations'
    )


def test_fewer_outputs_than_classes(healthy):
    cfg = config('mask_rcnn_biformer', healthy['coco'])
    cfg.model.roi_head.mask_head.num_classes = 3
    assert {(p.kind, p.detail) for p in problems(cfg)} == {
        (
            'class-count',
            f'model.roi_head.mask_head.num_classes=3, but {split}_dataloader.dataset has 4 classes',
        )
        for split in ('train', 'val')
    }


# Segmentation maps


def put(value, dtype=np.uint8):
    """Overwrite the first 9 of 64 rows."""

    def change(path):
        index_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(dtype)
        index_map[:9] = value
        cv2.imwrite(str(path), index_map)

    return change


def fill(value):
    return lambda path: cv2.imwrite(str(path), np.full((64, 64), value, np.uint8))


def three_channels(path):
    cv2.imwrite(str(path), cv2.imread(str(path)))


@pytest.mark.parametrize(
    'change, expected',
    [
        (put(0), []),
        (put(5), []),
        (put(6), ['map-label']),
        (put(254), ['map-label']),
        (put(255), []),
        (put(257, np.uint16), ['map-label']),
        (put(5, np.uint16), []),
        (fill(0), ['map-unlabelled']),
        (three_channels, ['map-channels']),
        (lambda path: path.unlink(), ['map-missing']),
        (IMAGES['empty-file'], ['empty-file']),
        (IMAGES['truncated'], ['truncated']),
        (IMAGES['no-image'], ['no-image']),
        (lambda path: resize(path, 32, 48), ['map-size']),
    ],
)
def test_segmentation_map(copy, change, expected):
    root = copy('ade20k')
    path = root / 'annotations' / 'training' / '000002.png'
    change(path)
    found = problems(config('semantic_fpn_biformer', root))
    assert kinds(found) == expected
    assert all(problem.file == str(path) for problem in found)


def test_labels_are_counted_and_named(copy):
    root = copy('ade20k')
    put(7)(root / 'annotations' / 'validation' / '000000.png')
    (problem,) = problems(config('semantic_fpn_biformer', root))
    assert problem.detail == f'labels (pixels) of no class: 7 ({9 * 64})'


@pytest.mark.parametrize(
    'reduce_zero_label, ignore_index, allowed',
    [
        (True, 255, {0, 1, 2, 3, 4, 5, 255}),
        (False, 255, {0, 1, 2, 3, 4, 255}),
        (True, 99, {0, 1, 2, 3, 4, 5, 100, 255}),
        (False, 99, {0, 1, 2, 3, 4, 99, 255}),
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


def test_image_and_map_are_of_the_size_that_is_loaded(copy):
    """A turned image's map belongs to the turned image."""
    root = copy('ade20k')
    IMAGES['exif-rotated'](root / 'images' / 'training' / '000000.jpg')
    index_map = root / 'annotations' / 'training' / '000000.png'
    cfg = config('semantic_fpn_biformer', root)
    resize(index_map, 64, 42)
    assert kinds(problems(cfg)) == ['exif-rotated']
    resize(index_map, 42, 64)
    assert kinds(problems(cfg)) == ['exif-rotated', 'map-size']


# Classification


@pytest.fixture
def pictures(healthy, tmp_path):
    """Two classes' folders, a and b, in train and val."""
    source = sorted(healthy['imagenet'].glob('train/*/*.jpg'))
    for split in ('train', 'val'):
        for path, name in zip(source, ('a/0.jpg', 'a/1.jpg', 'b/0.jpg')):
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / split / name)
    return tmp_path


def test_class_folders(pictures):
    cfg = config('biformer', pictures)
    assert problems(cfg) == []
    cfg.model.head.num_classes = 1
    IMAGES['truncated'](pictures / 'train' / 'a' / '1.jpg')
    (pictures / 'val' / 'b' / '0.jpg').unlink()
    found = problems(cfg)
    assert [(p.kind, p.file) for p in found] == [
        ('label', f'{pictures}/train/b'),
        ('truncated', f'{pictures}/train/a/1.jpg'),
        ('empty-class', f'{pictures}/val/b'),
        ('label', f'{pictures}/val/b'),
    ]


def test_folders_unlike_the_classes(pictures):
    cfg = config('biformer', pictures, metainfo=dict(classes=('a', 'b', 'c')))
    found = problems(cfg, ['train'])
    assert kinds(found) == ['label']
    assert '2 folders, but 3 classes' in found[0].detail


def test_list_of_images(pictures):
    (pictures / 'list.txt').write_text(
        'a/0.jpg 0\na/1.jpg 1\nb/0.jpg\nb/9.jpg 3\nb/0.jpg 4\nb/0.jpg -1\n'
    )
    cfg = config('biformer', pictures, ann_file='list.txt')  # 4 classes
    found = problems(cfg, ['train'])
    assert [(p.kind, p.file.replace(f'{pictures}/', '')) for p in found] == [
        ('list-line', 'list.txt'),
        ('label', 'train/b/0.jpg'),
        ('list-line', 'list.txt'),
        ('empty-class', 'list.txt'),
        ('missing', 'train/b/9.jpg'),
    ]
    assert "line 3 is not PATH LABEL: 'b/0.jpg'" in found[0].detail
    assert 'label 4, but there are 4 classes (line 5 of' in found[1].detail


# Configs


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
