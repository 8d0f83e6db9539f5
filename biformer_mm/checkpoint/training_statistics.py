"""Rebuild a checkpoint's training statistics without unpickling.

A pickle names the functions that rebuild an array or a history of losses. Here
none of them is called: the objects are built from the arguments in the pickle.
"""

import re
from typing import Any, Set

import numpy as np
from mmengine.logging import HistoryBuffer

from .read import CheckpointError, Placeholder

_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_NUMBERS = re.compile(r'b1|[iu][1248]|f[248]|c8|c16')
_BYTE_ORDERS = '<>|='


def restore_statistics(checkpoint: Any, source: str) -> Any:
    """Replace placeholders by the numbers, arrays and histories they stand for.

    Args:
        checkpoint: The result of :func:`read_checkpoint`. Its dicts and lists
            are changed in place.
        source: The name of the checkpoint in error messages.

    Returns:
        The checkpoint without any :class:`Placeholder`. Those that are not a
        number, an array of numbers or a history become None.

    Raises:
        CheckpointError: The checkpoint is nested too deeply.
    """
    try:
        return _restore(checkpoint, set())
    except RecursionError as error:
        raise CheckpointError(
            f'{source} is nested too deeply to be a checkpoint; get it again'
        ) from error


def _restore(value: Any, seen: Set[int]) -> Any:
    if isinstance(value, Placeholder):
        try:
            return _make(value)
        except Exception:  # the type depends on what it is instead
            return None
    if isinstance(value, tuple):
        return tuple(_restore(item, seen) for item in value)
    if isinstance(value, (dict, list)) and id(value) not in seen:
        seen.add(id(value))
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(pairs):
            value[key] = _restore(item, seen)
    return value


def _make(given: Placeholder) -> Any:
    """Build an object from the arguments and state in the pickle."""
    if given.name == _HISTORY:
        state = given.state
        return HistoryBuffer(
            _make(state['_log_history']), _make(state['_count_history']), int(state['max_length'])
        )
    if given.name.endswith('.scalar'):
        dtype, data = given.args
        return np.frombuffer(data, _dtype(dtype), count=1)[0]
    if given.name.endswith('._reconstruct'):
        _, shape, dtype, is_fortran, data = given.state
        if isinstance(data, Placeholder) and data.name == 'builtins.bytes':
            data = b''  # an empty array
        order = 'F' if is_fortran else 'C'
        return np.ndarray(shape, _dtype(dtype), data, order=order).copy('K')
    return None


def _dtype(given: Placeholder) -> np.dtype:
    """Build a dtype of numbers; one of objects would read bytes as addresses."""
    kind, order = given.args[0], given.state[1]
    if not _NUMBERS.fullmatch(kind) or order not in _BYTE_ORDERS:
        raise ValueError(f'{order}{kind} is no type of numbers')
    return np.dtype(order + kind)
