"""Transforms for token labelling; they need mmpretrain."""

from typing import Dict, Optional, Sequence

from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import RandomResizedCrop
from numpy import ndarray

from .token_labels import WHOLE, crop_token_labels, label_path, read_token_labels

STRIDE = 32  # of the last stage
_FLIPPED_AXES = dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2))


@TRANSFORMS.register_module()
class TokenLabelRandomResizedCrop(RandomResizedCrop):
    """mmpretrain's RandomResizedCrop, which also keeps the box that it cropped.

    It adds ``crop_box``: left, top, right and bottom edge as fractions of the image's size.

    Raises:
        ValueError: The image was flipped or cropped before.
    """

    def rand_crop_params(self, img: ndarray) -> Sequence[int]:
        """Draw top, left, height and width of the crop, and remember them."""
        self._params = super().rand_crop_params(img)
        return self._params

    def transform(self, results: Dict) -> Dict:
        """Crop and resize the image."""
        if results.get('flip') or 'crop_box' in results:
            raise ValueError('the image must be cropped once, before it is flipped; it was before')
        full_height, full_width = results['img'].shape[:2]
        results = super().transform(results)
        top, left, height, width = self._params
        results['crop_box'] = (
            left / full_width,
            top / full_height,
            (left + width) / full_width,
            (top + height) / full_height,
        )
        return results


@TRANSFORMS.register_module()
class LoadTokenLabels(BaseTransform):
    """Load the label map of an image, and crop and flip it as the image was.

    It comes after :class:`TokenLabelRandomResizedCrop`, if the image is cropped, and RandomFlip,
    and adds ``gt_token_scores``: the probabilities of the classes for each cell of the last
    stage's map, (C, H, W) float32. ``PackInputs(algorithm_keys=('gt_token_scores',))`` passes it
    on. Other changes of the image's geometry, such as RandAugment's rotations, are not followed,
    as in LV-ViT.

    Args:
        image_root: Folder of the images.
        label_root: Folder of the label maps, see
            :func:`biformer_mm.datasets.token_labels.label_path`.
        num_classes: Number of classes, C.
        grid: Height and width that all maps must have; None accepts any.

    Raises:
        TokenLabelError: A label map is missing or cannot be used.
    """

    def __init__(
        self,
        image_root: str,
        label_root: str,
        num_classes: int,
        grid: Optional[Sequence[int]] = None,
    ) -> None:
        self.image_root = image_root
        self.label_root = label_root
        self.num_classes = num_classes
        self.grid = grid

    def transform(self, results: Dict) -> Dict:
        """Add ``gt_token_scores``."""
        path = label_path(results['img_path'], self.image_root, self.label_root)
        labels = read_token_labels(path, self.num_classes, self.grid)
        grid = [-(-side // STRIDE) for side in results['img'].shape[:2]]
        scores = crop_token_labels(labels, self.num_classes, grid, results.get('crop_box', WHOLE))
        if results.get('flip'):
            scores = scores.flip(_FLIPPED_AXES[results['flip_direction']])
        results['gt_token_scores'] = scores
        return results
