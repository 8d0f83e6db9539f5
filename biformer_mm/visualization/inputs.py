"""Prepare an image file as a config's network sees it."""

from copy import deepcopy
from typing import Dict, NamedTuple, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from biformer_mm.datasets.reading import PictureReader, Unreadable, pipeline_of, to_bgr8
from biformer_mm.models.backbones.biformer import MIN_SIDE
from biformer_mm.utils.config_types import bare_type_name
from biformer_mm.utils.errors import UsageError, explained


class NetworkInput(NamedTuple):
    """An image as a network sees it.

    Attributes:
        picture: RGB, (H, W, 3), uint8: resized and cropped, but not normalised
            or padded.
        tensor: (1, C, H', W'), normalised and padded; the picture is at its
            top left.
        file_x: (W,), the file's column in pixels of each column of the picture.
        file_y: (H,), the file's row in pixels of each row of the picture.
    """

    picture: np.ndarray
    tensor: Tensor
    file_x: np.ndarray
    file_y: np.ndarray

    def at(self, x: float, y: float) -> tuple:
        """Return column and row of the picture at a position in the file.

        Raises:
            UsageError: The network does not see that position.
        """
        found = []
        for name, position, line in (('X', x, self.file_x), ('Y', y, self.file_y)):
            distance = np.abs(line - position)
            reach = max(1.0, abs(line[-1] - line[0]) / max(len(line) - 1, 1))
            if distance.min() > reach:
                raise UsageError(
                    f'a query must be seen: the network sees {name} from '
                    f'{line.min():.0f} to {line.max():.0f} of this image; got '
                    f'{position:g}: give a position between'
                )
            found.append(int(distance.argmin()))
        return tuple(found)


def load_input(cfg: Config, model: nn.Module, path: str) -> NetworkInput:
    """Read an image and prepare it with the config's test pipeline.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        model: The config's model, whose ``data_preprocessor`` is used.
        path: The image.

    Raises:
        UsageError: The file cannot be read, or the config has no test
            pipeline, or makes the image too small for a BiFormer.
    """
    steps = pipeline_of(cfg)
    if not steps:
        raise UsageError(
            'the config must have a test_dataloader.dataset.pipeline that prepares images; set it'
        )
    with explained(
        'test_dataloader.dataset.pipeline must be one that prepares images', 'correct it'
    ):
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        pipeline = _after_loading(steps)
        try:
            image = PictureReader(steps)(path)
        except Unreadable as error:
            raise UsageError(
                f'{path} is not an image that can be read ({error}); convert it to JPEG or PNG'
            ) from error
        packed = _run(pipeline, image, path)
        data = model.data_preprocessor(pseudo_collate([packed]), False)
    seen_height, seen_width = data['inputs'].shape[-2:]
    if min(seen_height, seen_width) < MIN_SIDE:
        raise UsageError(
            f'the network must see at least {MIN_SIDE} x '
            f'{MIN_SIDE} pixels; of {path} the config makes '
            f'{seen_height} x {seen_width}: give an image that is less '
            'narrow, or have the config pad it'
        )
    # To learn where the pixels come from, run the pipeline on images whose
    # values are their columns and their rows.
    height, width = image.shape[:2]
    like = (1,) * (image.ndim - 2)
    columns, rows = np.empty_like(image), np.empty_like(image)
    columns[:] = np.linspace(0, 255, width).round().reshape(1, width, *like)
    rows[:] = np.linspace(0, 255, height).round().reshape(height, 1, *like)
    seen_x, seen_y = (_run(pipeline, x, path)['inputs'].float().numpy() for x in (columns, rows))
    return NetworkInput(
        to_picture(packed['inputs']),
        data['inputs'],
        _straighten(seen_x.mean(axis=(0, 1))) / 255 * (width - 1),
        _straighten(seen_y.mean(axis=(0, 2))) / 255 * (height - 1),
    )


def to_picture(packed: Tensor) -> np.ndarray:
    """Convert a packed BGR image, (C, H, W), to RGB, (H, W, 3), uint8.

    See :func:`biformer_mm.datasets.reading.to_bgr8` for other numbers of channels.
    """
    return np.ascontiguousarray(to_bgr8(packed.cpu().numpy().transpose(1, 2, 0))[..., ::-1])


def _after_loading(steps: Sequence[Dict]) -> Compose:
    """Build a pipeline without the steps that read files."""
    return Compose(
        [deepcopy(step) for step in steps if not bare_type_name(step).startswith('Load')]
    )


def _run(pipeline: Compose, image: np.ndarray, path: str) -> dict:
    shape = image.shape[:2]
    return pipeline(
        dict(
            img=image,
            img_id=0,
            img_path=path,
            img_shape=shape,
            ori_shape=shape,
            height=shape[0],
            width=shape[1],
        )
    )


def _straighten(values: np.ndarray) -> np.ndarray:
    """Fit a straight line to rounded values."""
    if len(values) < 2:
        return values.astype(float)
    places = np.arange(len(values))
    return np.polyval(np.polyfit(places, values, deg=1), places)
