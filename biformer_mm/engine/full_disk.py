"""A disk without room for a line of the log ends a training with one line."""
import errno
import logging
from functools import wraps
from typing import Any

from mmengine.runner import Runner
from torch import nn

from biformer_mm.errors import UsageError
from .saving import find_whole_checkpoint

_FULL = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC))


def watch_disk(runner: Runner) -> None:
    """Have a runner's training say that its disk, or a quota, is full.

    Its ``train`` then raises a :class:`UsageError` in place of the OSError.
    """
    train = runner.train

    @wraps(train)
    def train_watched() -> nn.Module:
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = _raise
        try:
            return train()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            kept = find_whole_checkpoint(runner.work_dir)
            raise UsageError(
                f'{error.filename or runner.work_dir} cannot be written '
                f'({error.strerror}); the last whole checkpoint is '
                f'{kept or "none"}; free space and go on with '
                '--resume') from error

    runner.train = train_watched


def _raise(record: Any) -> None:
    """In place of logging's own way with errors: to print each one's traceback
    and go on."""
    raise
