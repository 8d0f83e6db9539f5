"""What a training keeps beside weights, made anew from data.

A pickle says which functions to call to have an array or a history of losses
again. Here the data that it would give them are looked at instead, and nothing
that it names is called.
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
    """Replace placeholders by the numbers, arrays and histories they are for.

    Args:
        checkpoint: What :func:`read_checkpoint` has read. Its dicts and lists
            are changed in place.
        source: What messages call it.

    Returns:
        The same, without a :class:`Placeholder`. What is neither a history
        nor an array of numbers, nor one number, has become None.

    Raises:
        CheckpointError: It is nested too deeply.
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
        except Exception:  # of many kinds, by what it is instead
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
    """From arguments and state, as numpy and MMEngine pickle them."""
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
            data = b''  # of an empty array
        order = 'F' if is_fortran else 'C'
        return np.ndarray(shape, _dtype(dtype), data, order=order).copy('K')
    return None


def _dtype(given: Placeholder) -> np.dtype:
    """Of numbers; a dtype of objects would take bytes for addresses."""
    kind, order = given.args[0], given.state[1]
    if not _NUMBERS.fullmatch(kind) or order not in _BYTE_ORDERS:
        raise ValueError(f'{order}{kind} is no type of numbers')
    return np.dtype(order + kind)
