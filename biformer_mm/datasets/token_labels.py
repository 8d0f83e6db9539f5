"""Label maps of token labelling: read, write, and crop them.

A label map holds, for each cell of a grid over the whole image, the K classes with the highest
scores: a tensor (2, K, h, w) with the scores (logits) first and the classes second. K is 5, or the
number of classes if there are fewer. One file for each image, as LV-ViT publishes them.
"""

import os
import os.path as osp
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from biformer_mm.checkpoint.read import check_kind
from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.errors import UsageError, describe

TOP_K = 5
SUFFIX = '.pt'
Box = Tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class TokenLabelError(UsageError, ValueError):
    """A label map cannot be used; the text names its file."""


def label_path(image: str, image_root: str, label_root: str) -> str:
    """Return the path of an image's label map.

    It is the image's path below ``image_root``, below ``label_root`` and with the suffix '.pt'.

    Raises:
        TokenLabelError: The image is not below ``image_root``.
    """
    name = osp.relpath(image, image_root)
    if name.split(os.sep)[0] == os.pardir:
        raise TokenLabelError(
            f'{image} is not below image_root={image_root}, where label maps are sought for; '
            'correct image_root'
        )
    return osp.join(label_root, osp.splitext(name)[0] + SUFFIX)


def read_token_labels(path: str, num_classes: int, grid: Optional[Sequence[int]] = None) -> Tensor:
    """Read and check a label map, as data: nothing in the file is run.

    Args:
        path: Its file.
        num_classes: Number of classes, C.
        grid: Height and width that it must have; None accepts any.

    Returns:
        (2, K, h, w), float32.

    Raises:
        TokenLabelError: The file is missing, unreadable, or holds something else. The text says
            what.
    """
    if not osp.isfile(path):
        raise TokenLabelError(f'there is no label map {path}; make it, or correct label_root')
    try:
        check_kind(path)
        labels = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # of many kinds, by format and torch version
        raise TokenLabelError(
            f'the label map {path} cannot be read as data: {describe(error)}; make it again'
        ) from error
    wrong = _what_is_wrong(labels, num_classes, grid)
    if wrong:
        raise TokenLabelError(f'the label map {path} {wrong}; make it again')
    return labels.float()


def _what_is_wrong(labels: object, num_classes: int, grid: Optional[Sequence[int]]) -> str:
    top_k = min(TOP_K, num_classes)
    if not isinstance(labels, Tensor) or not labels.is_floating_point():
        kind = getattr(labels, 'dtype', type(labels).__name__)
        return f'must be a floating-point tensor (2, {top_k}, h, w); it is {kind}'
    if labels.dim() != 4 or tuple(labels.shape[:2]) != (2, top_k) or not labels.numel():
        return f'must have the shape (2, {top_k}, h, w); it has {tuple(labels.shape)}'
    if grid is not None and tuple(labels.shape[2:]) != tuple(grid):
        return f'must have the grid {tuple(grid)}; it has {tuple(labels.shape[2:])}'
    if not labels.isfinite().all():
        return 'has numbers that are not finite'
    classes = labels[1]
    if classes.min() < 0 or classes.max() >= num_classes or (classes != classes.round()).any():
        return (
            f'must have classes 0 to {num_classes - 1}; it has numbers from '
            f'{classes.min():g} to {classes.max():g}'
        )
    return ''


def write_token_labels(path: str, logits: Tensor) -> None:
    """Write the label map of an image, wholly or not at all.

    Args:
        path: Its file. Folders are created as needed.
        logits: (C, h, w).

    Raises:
        OSError: The file cannot be written.
    """
    num_classes = len(logits)
    scores, classes = logits.float().topk(min(TOP_K, num_classes), dim=0)
    # Half precision, as the published maps have, is exact for classes up to 2048.
    dtype = torch.float16 if num_classes <= 2048 else torch.float32
    labels = torch.stack([scores, classes.float()]).to(dtype).cpu()
    with whole_file(path) as unfinished:
        torch.save(labels, unfinished)


def crop_token_labels(
    labels: Tensor, num_classes: int, grid: Sequence[int], box: Box = WHOLE
) -> Tensor:
    """Crop and resize a label map to soft labels with RoIAlign.

    Classes that are not among the K of a cell have the logit 0 there, as in LV-ViT.

    Args:
        labels: (2, K, h, w), scores and classes.
        num_classes: Number of classes, C.
        grid: Height and width of the result, H and W.
        box: Left, top, right and bottom edge of the crop, as fractions of the image's size.

    Returns:
        Probabilities of the classes, (C, H, W) float32.
    """
    from torchvision.ops import roi_align  # needed to train only, where mmpretrain brings it

    scores, classes = labels[0], labels[1].long()
    height, width = scores.shape[1:]
    # Only the classes that the map has: cropping all would take most of the loading time.
    found, index = classes.unique(return_inverse=True)
    maps = scores.new_zeros(1, len(found), height, width)
    maps[0].scatter_(0, index, scores)
    corners = scores.new_tensor(box) * scores.new_tensor([width, height, width, height])
    logits = scores.new_zeros(num_classes, *grid)
    logits[found] = roi_align(maps, [corners[None]], tuple(grid), aligned=True)[0]
    return logits.softmax(0)
