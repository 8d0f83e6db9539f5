"""Pictures that are damaged, or that training takes otherwise than expected."""

import cv2
import numpy as np
import pytest
from broken_data import IMAGES
from data_checks import RULES, config, kinds, problems
from mmengine.config import Config
from PIL import Image

from biformer_mm.datasets.checks.items import Item, Rules, check_item
from biformer_mm.datasets.checks.pictures import Loading, channels_taken, picture_loading


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


def write(path, mode, orientation=1, side=(64, 48), **options):
    """Write noise in a mode of Pillow, with an EXIF tag."""
    pixels = np.random.default_rng(0).integers(0, 256, (side[1], side[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(path, exif=exif, **options)
    return Item(str(path))


UNCHANGED = Rules(Loading('unchanged', 'cv2'))
GREY = Rules(Loading('grayscale', 'cv2'))


@pytest.mark.parametrize(
    'mode, suffix, rules, expected',
    [
        ('RGBA', '.png', RULES, ['alpha']),
        ('RGBA', '.png', UNCHANGED, []),
        ('RGBA', '.png', GREY, ['alpha']),
        ('LA', '.png', RULES, ['alpha', 'grey']),
        ('LA', '.png', UNCHANGED, []),  # grey, thrice, and alpha
        ('LA', '.png', Rules(Loading('unchanged', 'pillow')), []),
        ('L', '.png', RULES, ['grey']),
        ('L', '.png', UNCHANGED, []),
        ('L', '.png', GREY, []),
        ('CMYK', '.jpg', RULES, ['cmyk']),
        ('CMYK', '.jpg', UNCHANGED, ['cmyk']),  # OpenCV always converts it
        ('CMYK', '.jpg', Rules(Loading('unchanged', 'pillow')), []),
    ],
)
def test_channels_are_said_to_change_only_where_they_do(mode, suffix, rules, expected, tmp_path):
    assert kinds(check_item(rules, write(tmp_path / f'a{suffix}', mode))) == expected


def test_blending_is_not_called_dropping(tmp_path):
    item = write(tmp_path / 'a.png', 'LA')
    found = {p.kind: p.detail for p in check_item(Rules(Loading('color', 'pillow')), item)}
    assert found['alpha'] == 'transparency becomes one colour'


@pytest.mark.parametrize(
    'highest, flag, expected',
    [
        (65535, 'color', ['16-bit']),
        (4095, 'color', ['dark']),  # 12 bits
        (4095, 'grayscale', ['dark']),
        (4095, 'unchanged', []),
        (65535, 'unchanged', []),
    ],
)
def test_sixteen_bits(highest, flag, expected, tmp_path):
    path = tmp_path / 'a.png'
    ramp = np.linspace(0, highest, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint16)
    cv2.imwrite(str(path), ramp)
    found = check_item(Rules(Loading(flag, 'cv2')), Item(str(path)))
    assert kinds(found) == expected
    if expected == ['dark']:
        assert 'the highest value left is 15 of 255; scale' in found[0].detail


@pytest.mark.parametrize(
    'suffix, orientation, side, expected',
    [
        ('.jpg', 3, (64, 48), 'exif-turned'),
        ('.jpg', 2, (64, 48), 'exif-turned'),
        ('.png', 4, (64, 48), 'exif-turned'),
        ('.jpg', 6, (64, 64), 'exif-turned'),  # a size of a square says nothing
        ('.jpg', 6, (64, 48), 'exif-rotated'),
    ],
)
def test_exif_that_a_size_does_not_show(suffix, orientation, side, expected, tmp_path):
    item = write(tmp_path / f'a{suffix}', 'RGB', orientation, side)
    size = side if orientation < 5 else side[::-1]
    (problem,) = check_item(RULES, item._replace(size=size))
    assert problem.kind == expected
    assert problem.detail.startswith(f'EXIF orientation {orientation}: is turned on loading')
    (problem,) = check_item(UNCHANGED, item._replace(size=side))
    assert problem.kind == expected
    assert problem.detail.startswith(f'EXIF orientation {orientation}: is not turned on loading')
    # Without boxes or maps there is nothing that could be in the wrong place.
    assert kinds(check_item(RULES, item)) == ['exif-rotated']


def test_pillow_clips_sixteen_bits(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.full((64, 64), 300, np.uint16))
    found = {
        p.kind: p.detail for p in check_item(Rules(Loading('color', 'pillow')), Item(str(path)))
    }
    assert found['16-bit'] == 'values above 255 become 255'


@pytest.mark.parametrize('orientation', [0, 1, 9])
def test_exif_that_means_nothing(orientation, tmp_path):
    item = write(tmp_path / 'a.jpg', 'RGB', orientation, (64, 64))
    assert check_item(RULES, item._replace(size=(64, 64))) == []


def test_exif_is_turned_only_where_the_decoder_does_it(tmp_path):
    """OpenCV reads the tag of some formats only, by version; a TIFF is turned whatever is asked."""
    for suffix in ('.webp', '.tiff', '.jpg'):
        item = write(tmp_path / f'a{suffix}', 'RGB', 6)
        for rules in (RULES, UNCHANGED, Rules(Loading('color', 'pillow'))):
            turned = check_item(rules, item._replace(size=(64, 48)))
            size_differs = 'size' in kinds(turned)
            said = [p.detail for p in turned if p.kind == 'exif-rotated']
            negation = '' if size_differs else 'not '
            assert said == [f'EXIF orientation 6: is {negation}turned on loading']


@pytest.mark.parametrize(
    'scope, backbone, preprocessor, steps, expected',
    [
        ('mmseg', dict(type='BiFormer'), {}, [], {3}),
        ('mmseg', dict(type='BiFormer', in_channels=4), {}, [], {4}),
        ('mmdet', dict(type='BiFormer'), dict(bgr_to_rgb=True), [], {3, 4}),
        ('mmdet', dict(type='BiFormer', in_channels=4), dict(bgr_to_rgb=True), [], {4}),
        ('mmseg', dict(type='BiFormer'), dict(bgr_to_rgb=True), [], {3}),
        ('mmseg', dict(type='LeNet5'), {}, [], set()),
        ('mmseg', dict(type='BiFormer', in_channels=1), {}, [dict(type='RGB2Gray')], set()),
        ('mmseg', None, {}, [], set()),
    ],
)
def test_channels_that_a_model_takes(scope, backbone, preprocessor, steps, expected):
    model = dict(backbone=backbone, data_preprocessor=preprocessor)
    cfg = Config(dict(default_scope=scope, model=model))
    assert channels_taken(cfg, steps) == expected


def test_channels_that_do_not_fit_are_an_error(tmp_path):
    item = write(tmp_path / 'a.png', 'RGB')
    rules = UNCHANGED._replace(channels=frozenset([4]))
    (problem,) = check_item(rules, item)
    assert problem.kind == 'channels' and problem.severity == 'error'
    assert problem.detail.startswith('is decoded to 3 channels, model.backbone.in_channels is 4;')
    assert check_item(rules, write(tmp_path / 'b.png', 'RGBA')) == []


@pytest.mark.parametrize(
    'channels, expected', [([3, 4], ['alpha']), ([3], ['channels']), ([4], []), ([], [])]
)
def test_an_alpha_channel_that_is_read(channels, expected, tmp_path):
    """mmdet drops it, others fail if the model takes three."""
    rules = UNCHANGED._replace(channels=frozenset(channels))
    assert kinds(check_item(rules, write(tmp_path / 'b.png', 'RGBA'))) == expected


def test_loading_of_another_step_is_left_to_it(copy):
    """The pixels are what it gives; nothing is said about the bytes."""
    root = copy('ade20k')
    for path in root.rglob('*.jpg'):
        np.save(path.with_suffix('.npy'), cv2.imread(str(path)))
        path.unlink()
    (root / 'images' / 'training' / '000000.npy').write_bytes(b'hello')
    (root / 'images' / 'training' / '000001.npy').write_bytes(b'')
    cfg = config('semantic_fpn_biformer', root, img_suffix='.npy')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.pipeline[0].type = 'LoadImageFromNpyFile'
    found = problems(cfg)
    assert kinds(found) == ['no-image', 'no-image']
    assert [p.file[-10:] for p in found] == ['000000.npy', '000001.npy']


def test_arguments_of_loading_are_the_steps():
    pipeline = [
        dict(type='LoadAnnotations', imdecode_backend='pillow'),
        dict(type='LoadImageFromFile', color_type='unchanged', imdecode_backend='tifffile'),
    ]
    assert picture_loading(pipeline) == ('unchanged', 'tifffile', None)
    assert picture_loading([]) == ('color', 'cv2', None)
