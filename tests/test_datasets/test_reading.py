"""Pictures read as a pipeline does."""

import pickle

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from biformer_mm.datasets.reading import (
    PictureReader,
    Unreadable,
    loading_step,
    pipeline_of,
    to_bgr8,
)
from biformer_mm.utils.errors import UsageError

BGRA = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)


@pytest.fixture
def path(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), BGRA)
    return str(tmp_path / 'a.png')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def load(**options):
    """A pipeline that loads pictures after annotations."""
    return [
        dict(type='LoadAnnotations'),
        dict(type='LoadImageFromFile', **options),
        dict(type='Resize', scale=(5, 5)),
    ]


def test_channels_and_types_are_the_pipelines(path):
    np.testing.assert_array_equal(PictureReader(load(color_type='unchanged'))(path), BGRA)
    np.testing.assert_array_equal(PictureReader(load())(path), BGRA[..., :3])
    assert PictureReader(load(color_type='grayscale'))(path).shape == (20, 30)
    floats = PictureReader(load(color_type='unchanged', to_float32=True))(path)
    assert floats.dtype == np.float32 and (floats == BGRA).all()


def test_without_a_step_pictures_have_three_channels(path):
    np.testing.assert_array_equal(PictureReader(())(path), BGRA[..., :3])


def test_other_steps_that_load_pictures(tmp_path):
    np.save(tmp_path / 'a.npy', BGRA)
    read = PictureReader([dict(type='mmseg.LoadImageFromNpyFile')])
    for reader in (read, pickle.loads(pickle.dumps(read))):  # as for another process
        np.testing.assert_array_equal(reader(str(tmp_path / 'a.npy')), BGRA)


@pytest.mark.parametrize(
    'content, reason',
    [(None, 'No such file'), (b'', '^empty$'), (b'hello', '^no image, or damaged$')],
)
def test_what_cannot_be_read(content, reason, tmp_path):
    path = tmp_path / 'b.png'
    if content is not None:
        path.write_bytes(content)
    for options in ({}, dict(ignore_empty=True)):
        with pytest.raises(Unreadable, match=reason):
            PictureReader(load(**options))(str(path))


def test_a_decoder_that_fails_gives_its_reason(path):
    with pytest.raises(Unreadable, match='damaged .*backend: none is not supported'):
        PictureReader(load(imdecode_backend='none'))(path)


def test_a_step_that_cannot_be_built_is_refused():
    with pytest.raises(UsageError, match='LoadImageFromFile must be a step that loads'):
        PictureReader([dict(type='LoadImageFromFile', colour='red')])


def test_pipeline_is_found_inside_wrappers():
    steps = load()
    dataset = dict(type='RepeatDataset', dataset=dict(type='Any', pipeline=steps))
    assert pipeline_of(Config(dict(test_dataloader=dict(dataset=dataset)))) == steps
    for loader in (None, dict(), dict(dataset=dict(type='Any'))):
        assert not pipeline_of(Config(dict(test_dataloader=loader)))
    assert loading_step(steps) is steps[1]
    assert loading_step([lambda results: results]) is None


@pytest.mark.parametrize(
    'image, expected',
    [
        (BGRA, BGRA[..., :3]),
        (BGRA[..., :3], BGRA[..., :3]),
        (BGRA[..., :2], BGRA[..., [0, 0, 0]]),
        (BGRA[..., :1], BGRA[..., [0, 0, 0]]),
        (BGRA[..., 0], BGRA[..., [0, 0, 0]]),
        (BGRA.astype(np.float32), BGRA[..., :3]),
    ],
)
def test_anything_can_be_shown(image, expected):
    shown = to_bgr8(image)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, expected)


def test_deeper_values_are_scaled_to_be_shown():
    deep = np.array([[0, 2000, 4000]], np.uint16)
    np.testing.assert_array_equal(to_bgr8(deep)[0, :, 0], [0, 128, 255])
    np.testing.assert_array_equal(to_bgr8(np.array([[-3.0, 7.0]]))[0, :, 0], [0, 7])
