"""Hide known, harmless messages of the frameworks, which every start shows."""

import functools
import logging
import re
import warnings
from typing import Callable, Dict

import mmengine.logging
from mmengine.logging import MMLogger

_NO_ONEDL = 'OneDL is a package of data sets that nothing here reads.'
_FILE_CLIENT = "MMEngine's own checkpoint hook uses it, and no config of ours."

# Exact texts, and why each needs nobody's attention.
KNOWN: Dict[str, str] = {
    'Could not import OneDL. Skipping OneDL datasets.': _NO_ONEDL,
    'Could not import OneDL': _NO_ONEDL,
    'faster_coco_eval is not installed, metrics will not be computed. Please '
    'install it by: mim install onedl-mmdetection[optional]': 'Only FasterCocoMetric needs it; CocoMetric computes its metrics.',
    '"FileClient" will be deprecated in future. Please use io functions in '
    'https://onedl-mmengine.readthedocs.io/en/latest/api/fileio.html#file-io': _FILE_CLIENT,
    '"FileClient" will be deprecated in future. Please use io functions in '
    'https://mmengine.readthedocs.io/en/latest/api/fileio.html#file-io': _FILE_CLIENT,
    '"HardDiskBackend" is the alias of "LocalBackend" and the former will be '
    'deprecated in future.': _FILE_CLIENT,
    'The prefix is not set in metric class IoUMetric.': 'Its metrics are named mIoU and so on, as everybody knows them.',
    'Default ``avg_non_ignore`` is False, if you would like to ignore the '
    'certain label and average loss over non-ignore labels, which is the same '
    'with PyTorch official cross_entropy, set ``avg_non_ignore=True``.': "mmseg's recipes, ours among them, are trained with this average.",
    'The draw is False, it means that the hook for visualization will not '
    'take effect. The results will NOT be visualized or stored.': 'It is the default of mmseg; --show-dir switches it on.',
    '`reduce_zero_label` will be deprecated, if you would like to ignore the '
    'zero label, please set `reduce_zero_label=True` when dataset initialized': 'Data sets set it; the transform warns of itself though they do.',
    **{
        f'Warning: The {what} is out of bounds, the drawn {what} may not be '
        'in the image': "What touches the image's border is drawn all the same."
        for what in ('bbox', 'polygon', 'text')
    },
    'torch.meshgrid: in an upcoming release, it will be required to pass the '
    'indexing argument.': 'The frameworks mean the order that is the default now.',
    **{
        f'Failed to search registry with scope "{scope}" in the "function" '
        'registry tree. As a workaround, the current "function" registry in '
        '"mmengine" is used to build instance. This may cause unexpected '
        'failure when running the built modules. Please check whether '
        f'"{scope}" is a correct scope, or whether the registry is '
        'initialized.': "MMEngine's inferencer finds its collate function there."
        for scope in ('mmdet', 'mmseg', 'mmpretrain')
    },
}


def quiet_known_warnings() -> None:
    """Hide the messages in :data:`KNOWN` in this process, and no others.

    Tools call it before they import a framework. It changes what this process
    shows of Python's warnings, and MMEngine's logger and ``print_log``.
    """
    for text in KNOWN:
        # PyTorch adds the place in its C++ code to a warning from there.
        warnings.filterwarnings('ignore', re.escape(text) + r'( \(Triggered internally at .*\))?\Z')
    # Loggers come and go with runners, so their class has the filter.
    MMLogger.filter = _filter
    if not hasattr(mmengine.logging.print_log, '__wrapped__'):
        mmengine.logging.print_log = _without_known(mmengine.logging.print_log)


def _filter(logger: MMLogger, record: logging.LogRecord):
    return record.getMessage() not in KNOWN and logging.Logger.filter(logger, record)


def _without_known(print_log: Callable) -> Callable:
    """``print_log`` prints what it is given no logger for."""

    @functools.wraps(print_log)
    def quiet_print_log(msg, *args, **kwargs) -> None:
        if str(msg) not in KNOWN:
            print_log(msg, *args, **kwargs)

    return quiet_print_log
