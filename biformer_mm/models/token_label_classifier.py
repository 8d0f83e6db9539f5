"""A classifier that trains with token labelling and MixToken (LV-ViT)."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.utils.batch_augments import CutMix
from mmpretrain.structures import DataSample
from torch import Tensor

from .token_label_head import Box, swap_box, token_targets


@MODELS.register_module()
class TokenLabelClassifier(ImageClassifier):
    """mmpretrain's classifier with a :class:`TokenLabelHead`, which it trains with MixToken.

    MixToken exchanges a box of embedded tokens, drawn as CutMix draws its own, between pairs of
    images in a batch. The box lies on the grid of the last stage, so that each last token is of
    one image; the head puts these back before it compares them with their labels.

    Args:
        *args: Arguments of mmpretrain's ``ImageClassifier``; the backbone is a BiFormer, and the
            neck is None.
        mix_token: Whether to train with MixToken.
        train_cfg: None, as MixUp and CutMix of images would not mix their label maps.
        **kwargs: Further arguments of ``ImageClassifier``.

    Raises:
        ValueError: ``train_cfg`` has batch augmentations.
    """

    def __init__(
        self, *args: Any, mix_token: bool = True, train_cfg: Optional[Dict] = None, **kwargs: Any
    ) -> None:
        if train_cfg:
            raise ValueError(
                'train_cfg must be None, as token labelling mixes tokens instead of images; '
                f'got {train_cfg}'
            )
        super().__init__(*args, **kwargs)
        self.mix_token = mix_token
        self._boxes = CutMix(alpha=1.0)

    def loss(self, inputs: Tensor, data_samples: List[DataSample]) -> Dict[str, Tensor]:
        """Compute the loss of a batch of images, (N, 3, H, W).

        Raises:
            ValueError: See :meth:`TokenLabelHead.loss`.
        """
        if not self.mix_token:
            return super().loss(inputs, data_samples)
        grid = token_targets(data_samples).shape[2:]
        lam = np.random.beta(self._boxes.alpha, self._boxes.alpha)  # noqa: NPY002 - as CutMix
        box, share = self._boxes.cutmix_bbox_and_lam(grid, lam)
        with self._mixing(box):
            feats = self.extract_feat(inputs)
        return self.head.loss(feats, data_samples, box, float(share))

    @contextmanager
    def _mixing(self, box: Box) -> Iterator[None]:
        """Exchange a box, in cells of the last map, in what the stem returns."""
        scale = 2 ** len(self.backbone.downsamples)
        fine = tuple(int(edge) * scale for edge in box)
        handle = self.backbone.stem.register_forward_hook(
            lambda stem, args, tokens: swap_box(tokens, fine)
        )
        try:
            yield
        finally:
            handle.remove()
