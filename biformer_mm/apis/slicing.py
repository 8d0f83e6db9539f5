"""Detect in a big picture slice by slice.

N is the number of detections, H and W the height and width of the picture in pixels.
"""

from typing import Callable, List, Tuple

import numpy as np
import torch
from mmengine.structures import InstanceData

from biformer_mm.utils.errors import UsageError

Find = Callable[[np.ndarray], InstanceData]


def in_slices(find: Find, size: int, overlap: float) -> Find:
    """Detect in slices of a picture and in the whole picture, and merge the detections.

    Detections are merged into larger ones of their class that cover half of them. So the parts of
    an object that slices cut become one detection, with the union of their boxes and masks and
    the highest of their scores. From the whole picture come only objects that are larger than
    the overlap: slices show the others whole, and in more detail. A picture that fits into one
    slice is not sliced.

    Args:
        find: Maps an image, (H, W) or (H, W, C), to its detections: ``bboxes`` (N, 4) as x1, y1,
            x2, y2 in pixels, ``scores`` (N,), ``labels`` (N,), and bool ``masks`` (N, H, W) if
            the model has them; all on the CPU.
        size: Height and width of a slice in pixels.
        overlap: The part of a slice that it shares with the next one, at least 0 and below 1.

    Returns:
        A function like ``find``. It raises UsageError if ``find`` gives no boxes.

    Raises:
        UsageError: The package sahi is not installed.
    """
    try:
        from sahi.postprocess.combine import batched_greedy_nmm
        from sahi.slicing import get_slice_bboxes
    except ImportError as error:
        raise UsageError(
            f'slices need the package sahi, which cannot be imported ({error}); '
            'install it as docs/inference.md says'
        ) from error

    def find_in_slices(image: np.ndarray) -> InstanceData:
        height, width = image.shape[:2]
        whole = find(image)
        if max(height, width) <= size:
            return whole
        sides = whole.bboxes[:, 2:] - whole.bboxes[:, :2]
        parts = [((0, 0), whole[(sides > int(size * overlap)).any(dim=1)])]
        for x1, y1, x2, y2 in get_slice_bboxes(
            height, width, size, size, overlap_height_ratio=overlap, overlap_width_ratio=overlap
        ):
            parts.append(((x1, y1), find(image[y1:y2, x1:x2])))
        found = torch.cat([part.bboxes for _, part in parts])
        if not len(found):
            return whole[:0]
        if not found.any():  # as SOLO's, whose masks are all that it finds
            raise UsageError('slices need a detector that gives boxes; got boxes of zeros only')
        boxes = torch.cat([part.bboxes + torch.tensor(corner * 2) for corner, part in parts])
        scores = torch.cat([part.scores for _, part in parts])
        labels = torch.cat([part.labels for _, part in parts])
        groups, count = [[i] for i in range(len(boxes))], None
        while len(groups) != count:  # a union may cover more than its parts
            count = len(groups)
            unions = torch.stack(
                [torch.cat([boxes[g, :2].amin(dim=0), boxes[g, 2:].amax(dim=0)]) for g in groups]
            )
            classes = labels[[group[0] for group in groups]]
            # By area instead of score: what is found of a big object in the whole picture covers
            # all its parts and must take them in, even with a lower score.
            areas = (unions[:, 2:] - unions[:, :2]).prod(dim=1)
            table = torch.cat([unions, areas[:, None], classes[:, None]], dim=1)
            merged = batched_greedy_nmm(table.numpy(), 'IOS', 0.5)
            groups = [sum((groups[i] for i in [k, *others]), []) for k, others in merged.items()]
        result = InstanceData(
            bboxes=unions[list(merged)],
            scores=torch.stack([scores[group].max() for group in groups]),
            labels=classes[list(merged)],
        )
        if 'masks' in whole:
            result.masks = _unite_masks(parts, groups, height, width)
        return result

    return find_in_slices


def _unite_masks(
    parts: List[Tuple[Tuple[int, int], InstanceData]],
    groups: List[List[int]],
    height: int,
    width: int,
) -> torch.Tensor:
    """Return the union of each group's masks in the whole picture, (N, H, W)."""
    pieces = [(corner, mask) for corner, part in parts for mask in part.masks]
    united = torch.zeros(len(groups), height, width, dtype=torch.bool)
    for mask, group in zip(united, groups):
        for (x, y), piece in map(pieces.__getitem__, group):
            h, w = piece.shape
            mask[y : y + h, x : x + w] |= piece
    return united
