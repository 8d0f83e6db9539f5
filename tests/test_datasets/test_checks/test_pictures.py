"""Pictures that are damaged, or that training takes otherwise than expected."""

import cv2
import numpy as np
import pytest
from broken_data import IMAGES
from data_checks import RULES, kinds

from biformer_mm.datasets.checks.items import Item, check_item


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
