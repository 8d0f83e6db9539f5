"""The head of token labelling: a branch for the image and one for each token.

Shapes: N batch, C channels, K classes, H x W map of the last stage.
"""

from typing import Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

Box = Tuple[int, int, int, int]


def swap_box(maps: Tensor, box: Box) -> Tensor:
    """Exchange a box between the first and the last map of a batch, the second and so on.

    Doing it twice gives the maps again.

    Args:
        maps: (N, C, H, W).
        box: Top, bottom, left and right edge, in cells.
    """
    top, bottom, left, right = box
    swapped = maps.clone()
    swapped[:, :, top:bottom, left:right] = maps.flip(0)[:, :, top:bottom, left:right]
    return swapped


@MODELS.register_module()
class TokenLabelHead(LinearClsHead):
    """Linear classifiers of the mean token and of every token (LV-ViT, WaveViT).

    A score is that of the mean token plus ``token_weight`` x the highest among the tokens. The
    loss is that of the mean token plus ``token_weight`` x the tokens' mean cross entropy with
    soft labels.

    Args:
        num_classes: Number of classes, K.
        in_channels: Channels of the last stage, C.
        token_weight: Weight of the tokens in scores and loss.
        **kwargs: Further arguments of mmpretrain's ``LinearClsHead``.
    """

    def __init__(
        self, num_classes: int, in_channels: int, token_weight: float = 0.5, **kwargs
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.token_weight = token_weight
        self.aux_head = nn.Linear(in_channels, num_classes)  # the name in released checkpoints

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """Return the mean token: (N, C, H, W) -> (N, C)."""
        return feats[-1].mean((2, 3))

    def token_logits(self, tokens: Tensor) -> Tensor:
        """Classify each token: (N, C, H, W) -> (N, K, H, W)."""
        return self.aux_head(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Return the scores of the images, (N, K)."""
        best = self.token_logits(feats[-1]).amax((2, 3))
        return self.fc(self.pre_logits(feats)) + self.token_weight * best

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: List[DataSample],
        box: Optional[Box] = None,
        share: float = 1.0,
    ) -> Dict[str, Tensor]:
        """Compute the loss of both branches.

        Args:
            feats: Maps of the backbone; the last is used, (N, C, H, W).
            data_samples: With ``gt_label`` and ``gt_token_scores``, (K, H, W).
            box: The box of the last map that was exchanged by :func:`swap_box`.
            share: The share of tokens that are an image's own.

        Raises:
            ValueError: A sample has no ``gt_token_scores``, or of another shape.
        """
        labels = torch.cat([sample.gt_label for sample in data_samples])
        targets = token_targets(data_samples).to(feats[-1].device)
        image_logits = self.fc(self.pre_logits(feats))
        tokens = feats[-1] if box is None else swap_box(feats[-1], box)
        token_logits = self.token_logits(tokens)
        if token_logits.shape != targets.shape:
            raise ValueError(
                'gt_token_scores must be (classes, height, width) of the last map; got '
                f'{tuple(targets.shape[1:])} for {tuple(token_logits.shape[1:])}'
            )
        own = self.loss_module(image_logits, labels)
        other = self.loss_module(image_logits, labels.flip(0))
        return dict(
            loss_image=share * own + (1 - share) * other,
            loss_token=self.token_weight * F.cross_entropy(token_logits, targets),
        )


def token_targets(data_samples: List[DataSample]) -> Tensor:
    """Stack the soft labels of the tokens, (N, K, H, W).

    Raises:
        ValueError: A sample has none.
    """
    if any('gt_token_scores' not in sample for sample in data_samples):
        raise ValueError(
            'samples must have gt_token_scores to train with; put LoadTokenLabels into the '
            "pipeline, and algorithm_keys=('gt_token_scores',) into PackInputs"
        )
    return torch.stack([sample.gt_token_scores for sample in data_samples])
