"""Read a picture file as a config's pipeline does."""

from copy import deepcopy
from typing import Any, Dict, Optional, Sequence

import cv2
import numpy as np
from mmengine.dataset import Compose

from biformer_mm.utils.config_types import bare_type_name
from biformer_mm.utils.errors import describe, explained


class Unreadable(Exception):
    """A file holds no picture, or none that can be used."""


class PictureReader:
    """Read pictures by the loading step of a pipeline.

    Args:
        pipeline: The configs of the steps. One without a step that loads
            pictures reads as :class:`mmcv.transforms.LoadImageFromFile` does.

    Raises:
        UsageError: The step cannot be built.
    """

    def __init__(self, pipeline: Sequence[Dict]) -> None:
        from mmcv.transforms import LoadImageFromFile  # only the frameworks require it

        step = loading_step(pipeline) or dict(type=LoadImageFromFile)
        with explained(f'{bare_type_name(step)} must be a step that loads pictures', 'correct it'):
            self._load = Compose([deepcopy(step)])

    def __call__(self, path: str) -> np.ndarray:
        """Return the pixels, (H, W) or (H, W, C), as the next step gets them.

        Raises:
            Unreadable: The file cannot be read.
        """
        try:
            with open(path, 'rb') as file:
                empty = not file.read(1)
        except OSError as error:
            raise Unreadable(error.strerror) from error
        if empty:
            raise Unreadable('empty')
        try:
            results = self._load(dict(img_path=path))
        except (AssertionError, cv2.error) as error:  # OpenCV gives no reasons
            raise Unreadable('no image, or damaged') from error
        except Exception as error:  # of many kinds, by decoder
            raise Unreadable(f'no image, or damaged ({describe(error)})') from error
        if results is None:  # by ignore_empty=True
            raise Unreadable('no image, or damaged')
        return results['img']


def loading_step(pipeline: Sequence[Dict]) -> Optional[Dict]:
    """Return the config of the step that loads pictures, or None if there is none."""
    for step in pipeline:
        name = bare_type_name(step)
        if name.startswith('Load') and 'Image' in name:
            return step
    return None


def pipeline_of(cfg: Any) -> Sequence[Dict]:
    """Return the steps of a config's test data set, inside any wrappers; () if it has none."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset.get('pipeline') or ()


def to_bgr8(image: np.ndarray) -> np.ndarray:
    """Convert an image of any depth and channels to one that can be shown.

    Args:
        image: (H, W) or (H, W, C). The first three channels are blue, green
            and red; fewer than three are a grey image. Values above 255 are
            scaled down so that the highest becomes 255.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    if image.dtype != np.uint8:
        image = image.astype(np.float32)
        scale = 255 / max(255.0, image.max())
        image = (image * scale).round().clip(0, 255).astype(np.uint8)
    image = np.atleast_3d(image)
    return image[..., :3] if image.shape[2] > 2 else image[..., :1].repeat(3, axis=2)
