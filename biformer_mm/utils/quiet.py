"""Hide known, harmless messages that the frameworks print at every start."""

import functools
import logging
import re
import warnings
from typing import Callable, Dict

import mmengine.logging
from mmengine.logging import MMLogger

_NO_ONEDL = 'OneDL is a package of data sets, which biformer_mm does not use.'
_FASTER_COCO = 'Only FasterCocoMetric needs it. CocoMetric computes its metrics.'
_FILE_CLIENT = "MMEngine's checkpoint hook uses it, our configs do not."
_PREFIX = 'Its metrics are known by their names without a prefix, such as mIoU.'
_AVERAGE = "mmseg's recipes and ours are trained with this average."
_NO_DRAWING = "It is mmseg's default. --show-dir turns drawing on."
_ZERO_LABEL = 'The data set sets it already; the transform warns all the same.'
_OUT_OF_BOUNDS = "Objects that touch the image's border are drawn correctly."
_MESHGRID = 'The frameworks rely on the order that is the default now.'
_COLLATE = "MMEngine's inferencer finds its collate function in its own registry."

# By exact text, why nobody needs to see the message.
KNOWN: Dict[str, str] = {
    'Could not import OneDL. Skipping OneDL datasets.': _NO_ONEDL,
    'Could not import OneDL': _NO_ONEDL,
    'faster_coco_eval is not installed, metrics will not be computed. Please '
    'install it by: mim install onedl-mmdetection[optional]': _FASTER_COCO,
    **{
        '"FileClient" will be deprecated in future. Please use io functions in '
        f'https://{site}.readthedocs.io/en/latest/api/fileio.html#file-io': _FILE_CLIENT
        for site in ('onedl-mmengine', 'mmengine')
    },
    '"HardDiskBackend" is the alias of "LocalBackend" and the former will be '
    'deprecated in future.': _FILE_CLIENT,
    'The prefix is not set in metric class IoUMetric.': _PREFIX,
    'Default ``avg_non_ignore`` is False, if you would like to ignore the '
    'certain label and average loss over non-ignore labels, which is the same '
    'with PyTorch official cross_entropy, set ``avg_non_ignore=True``.': _AVERAGE,
    'The draw is False, it means that the hook for visualization will not '
    'take effect. The results will NOT be visualized or stored.': _NO_DRAWING,
    '`reduce_zero_label` will be deprecated, if you would like to ignore the '
    'zero label, please set `reduce_zero_label=True` when dataset initialized': _ZERO_LABEL,
    **{
        f'Warning: The {what} is out of bounds, the drawn {what} may not be '
        'in the image': _OUT_OF_BOUNDS
        for what in ('bbox', 'polygon', 'text')
    },
    'torch.meshgrid: in an upcoming release, it will be required to pass the '
    'indexing argument.': _MESHGRID,
    **{
        f'Failed to search registry with scope "{scope}" in the "function" '
        'registry tree. As a workaround, the current "function" registry in '
        '"mmengine" is used to build instance. This may cause unexpected '
        'failure when running the built modules. Please check whether '
        f'"{scope}" is a correct scope, or whether the registry is '
        'initialized.': _COLLATE
        for scope in ('mmdet', 'mmseg', 'mmpretrain')
    },
}


def quiet_known_warnings() -> None:
    """Hide the messages in :data:`KNOWN` in this process.

    Call it before importing a framework. It adds filters to Python's warnings,
    to MMEngine's logger and to its ``print_log``.
    """
    for text in KNOWN:
        # PyTorch appends the line of its C++ code to a warning.
        warnings.filterwarnings('ignore', re.escape(text) + r'( \(Triggered internally at .*\))?\Z')
    # Each runner makes a logger, so the filter belongs to the class.
    MMLogger.filter = _filter
    if not hasattr(mmengine.logging.print_log, '__wrapped__'):
        mmengine.logging.print_log = _without_known(mmengine.logging.print_log)


def _filter(logger: MMLogger, record: logging.LogRecord):
    return record.getMessage() not in KNOWN and logging.Logger.filter(logger, record)


def _without_known(print_log: Callable) -> Callable:
    """Wrap ``print_log``, which prints messages that have no logger."""

    @functools.wraps(print_log)
    def quiet_print_log(msg, *args, **kwargs) -> None:
        if str(msg) not in KNOWN:
            print_log(msg, *args, **kwargs)

    return quiet_print_log
