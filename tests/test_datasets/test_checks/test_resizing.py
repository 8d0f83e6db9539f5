"""By how much pipelines enlarge an image, compared with what their steps do to it."""

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope

from biformer_mm.datasets.checks.resizing import enlargement
from biformer_mm.utils import register_all_modules

SIZE = (64, 48)
KEEP = dict(keep_ratio=True)


def run(scope, pipeline):
    """The factor that a pipeline resizes an image by."""
    register_all_modules()
    init_default_scope(scope)
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    height, width = Compose(pipeline)(dict(img=image, img_shape=image.shape[:2]))['img'].shape[:2]
    return (width * height / (SIZE[0] * SIZE[1])) ** 0.5


FIXED = [
    dict(type='Resize', scale=(200, 100)),
    dict(type='Resize', scale=(200, 100), **KEEP),
    dict(type='Resize', scale=(100, 200), **KEEP),
    dict(type='Resize', scale=160),
    dict(type='Resize', scale=160, **KEEP),
    dict(type='ResizeShortestEdge', scale=96, max_size=1000),
    dict(type='ResizeShortestEdge', scale=96, max_size=100),
    dict(type='RandomChoiceResize', scales=[(128, 96)], **KEEP),
    dict(type='RandomChoiceResize', scales=(128, 96), **KEEP),
    dict(type='RandomChoiceResize', scales=[96], resize_type='ResizeShortestEdge', max_size=999),
    dict(type='RandomResize', scale=(128, 96), ratio_range=(0.5, 0.5), **KEEP),
]


@pytest.mark.parametrize('step', FIXED, ids=lambda step: f'{step["type"]}')
@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_fixed_sizes(scope, step):
    pipeline = [dict(type='RandomFlip', prob=0.5), step]
    low, high = enlargement(pipeline, SIZE)
    assert low == high == pytest.approx(run(scope, pipeline), rel=0.03)  # sides are rounded


RANDOM = [
    [dict(type='RandomResize', scale=(128, 96), ratio_range=(0.5, 2.0), **KEEP)],
    [dict(type='RandomResize', scale=[(128, 96), (256, 192)], **KEEP)],
    [dict(type='RandomChoiceResize', scales=[(64, 48), (256, 192)], **KEEP)],
    [
        dict(
            type='RandomChoice',
            transforms=[[dict(type='Resize', scale=s)] for s in ((64, 48), (32, 24))],
        )
    ],
]


@pytest.mark.parametrize('pipeline', RANDOM, ids=lambda pipeline: pipeline[0]['type'])
def test_random_sizes_are_in_the_range_and_reach_its_ends(pipeline):
    np.random.seed(0)
    low, high = enlargement(pipeline, SIZE)
    found = [run('mmdet', pipeline) for _ in range(60)]
    assert low * 0.97 <= min(found) < max(found) <= high * 1.03
    assert max(found) - min(found) > 0.6 * (high - low)


RESIZE = dict(type='Resize', scale=(64, 64))


@pytest.mark.parametrize(
    'pipeline',
    [
        None,
        [],
        [dict(type='RandomFlip', prob=0.5)],
        [dict(type='RandomCrop', crop_size=(32, 32)), RESIZE],
        [dict(type='RandomResizedCrop', scale=224)],
        [dict(type='Mosaic', img_scale=(64, 64)), RESIZE],
        [RESIZE, dict(type='RandomAffine')],
        [dict(type='Resize', scale_factor=2.0)],
        [dict(type='ResizeEdge', scale=64)],
        [dict(type='TestTimeAug', transforms=[[RESIZE]])],
    ],
)
def test_what_is_not_known(pipeline):
    assert enlargement(pipeline, SIZE) is None


def test_crops_after_resizing_and_padding_change_no_size():
    after = [dict(type='RandomCrop', crop_size=(32, 32)), dict(type='Pad', size_divisor=32)]
    assert enlargement([RESIZE, *after], (64, 64)) == (1, 1)
    assert enlargement([RESIZE, dict(type='ResizeToMultiple')], (64, 64)) == (1, 1)
