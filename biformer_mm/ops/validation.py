"""Checks of arguments that ops and models share."""

import math
import operator
from typing import Any, Optional

import torch
from torch import Tensor


def whole(name: str, value: Any, least: Optional[int] = None) -> int:
    """An argument that must be an integer; NumPy's are, a bool is none.

    Args:
        name: What the message calls it.
        value: What was given. While a graph is made it may stand for a number.
        least: What it must be at least, if there is such a bound.

    Raises:
        ValueError: It is something else.
    """
    traced = isinstance(value, torch.SymInt) or (
        isinstance(value, Tensor) and torch.jit.is_tracing()
    )
    if traced:
        return value
    if not isinstance(value, bool):
        try:
            # A size that torch.compile keeps variable passes for an int, and
            # would be fixed by index().
            integer = value if isinstance(value, int) else operator.index(value)
            if least is None or integer >= least:
                return integer
        except TypeError:
            pass
    bound = '' if least is None else f' of at least {least}'
    raise ValueError(f'{name} must be an integer{bound}; got {value!r}')


def number(name: str, value: Any) -> float:
    """An argument that must be a finite number, other than a bool.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, (bool, str, Tensor)):
        try:
            if math.isfinite(value):
                return float(value)
        except (TypeError, OverflowError):
            pass
    raise ValueError(f'{name} must be a finite number; got {value!r}')


def flag(name: str, value: Any) -> bool:
    """An argument that must be True or False.

    Raises:
        ValueError: It is something else: the text 'False' would count as True.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False; got {value!r}')
    return value
