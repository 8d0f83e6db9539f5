"""Cells of the matrix in which a tool must refuse, and why."""

from fnmatch import fnmatch
from typing import NamedTuple, Optional

import torch
from mmengine.utils import digit_version


class Refusal(NamedTuple):
    """A line that a tool must end with.

    Attributes:
        configs: Which, as a pattern of names; alternatives between bars.
        column: Of cells.COLUMNS; a pattern, too.
        says: Regular expression of a part of the line that follows 'TOOL:
            error: '; what it matches stands under the table in
            docs/recipes.md.
    """

    configs: str
    column: str
    says: str


_TWO_STAGES = 'mask_rcnn_*|cascade_mask_rcnn_*'

REFUSALS = (
    # mmdet has no way to merge masks of several views.
    Refusal(_TWO_STAGES, 'tta', '--tta is for boxes only, as mmdet cannot merge masks'),
    # What they compute before post-processing depends on proposals or
    # queries.
    Refusal(
        f'{_TWO_STAGES}|dino_*|mask2former_*',
        'export_onnx',
        'what is exported whole is RetinaNet, a segmentor with one decode '
        'head that gives one map, or a classifier',
    ),
    # Their keys are not tokens of the map.
    Refusal(
        'deformable_*|spatially_separable_*',
        'routing*',
        'attention to other points: choose a block of another kind',
    ),
    # A checkpoint of DeepSpeed is a folder with a file of each process;
    # docs/distributed.md says how to make a file of it.
    *(
        Refusal('*_zero', column, 'is a folder, not a checkpoint')
        for column in ('test', 'tta', 'infer', 'routing*', 'export_onnx*')
    ),
)
OLD_TORCH = digit_version(torch.__version__) < digit_version('2.6')
_NO_EXPORT = Refusal('*', 'export_onnx*', 'export to ONNX needs PyTorch 2.6')


def find_refusal(config: str, column: str) -> Optional[Refusal]:
    """What a cell must say; None if it must work."""
    refusals = (_NO_EXPORT, *REFUSALS) if OLD_TORCH else REFUSALS
    name = config.rpartition('/')[2]
    for refusal in refusals:
        if fnmatch(column, refusal.column) and any(
            fnmatch(name, pattern) for pattern in refusal.configs.split('|')
        ):
            return refusal
    return None
