"""Measure and draw the effective receptive field of a network.

Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks,
NeurIPS 2016.
"""

from typing import Iterable

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError

from .recording import evaluating

DECADES = 3  # of the colours


def receptive_field(backbone: BiFormer, images: Iterable[Tensor]) -> np.ndarray:
    """Average over images how much each pixel changes the centre of the last map.

    It is the absolute gradient of the token at the centre, summed over the colours of the pixel.
    The token's channels are summed with random signs, because the plain sum of a LayerNorm's
    output is constant.

    Args:
        backbone: The network. It runs in evaluation mode; its mode is restored afterwards.
        images: Normalised images, (1, C, H, W) each, of one size.

    Returns:
        (H, W), from 0 to 1, the largest.

    Raises:
        UsageError: The images differ in size.
        ValueError: The backbone refuses an image.
    """
    signs = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for image in images:
        if total.dim() and total.shape != image.shape[2:]:
            raise UsageError(
                'images must have one size in the network; got '
                f'{tuple(total.shape)} and {tuple(image.shape[2:])}: crop them alike'
            )
        image = image.detach().requires_grad_()
        with evaluating(backbone), torch.enable_grad():
            last = backbone(image)[-1]
            centre = last[0, :, last.shape[2] // 2, last.shape[3] // 2]
            sign = torch.randint(2, centre.shape, generator=signs).to(centre) * 2 - 1
            (gradient,) = torch.autograd.grad(centre @ sign, image)
        total = total + gradient[0].abs().sum(dim=0).cpu()
    return (total / total.max()).numpy()


def share_of_half(field: np.ndarray) -> float:
    """Return the smallest share of the pixels that has half of the field's sum."""
    parts = np.cumsum(np.sort(field.ravel())[::-1], dtype=np.float64)
    return float((np.searchsorted(parts, parts[-1] / 2) + 1) / field.size)


def draw_field(field: np.ndarray, title: str) -> Figure:
    """Draw a receptive field, (H, W), in logarithmic colours."""
    height, width = field.shape
    figure = Figure(figsize=(5.5, 5 * min(max(height / width, 0.5), 2)), layout='constrained')
    axis = figure.subplots()
    image = axis.imshow(
        np.maximum(field, 10.0**-DECADES), cmap='inferno', norm=LogNorm(10.0**-DECADES, 1)
    )
    axis.set_title(f'{title}\nhalf of the gradient in {share_of_half(field):.1%} of the pixels')
    axis.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=axis, shrink=0.8, label='mean |gradient|, relative to the largest')
    return figure
