"""Validate arguments: the checks that ops, models and hooks share."""

import math
import operator
from typing import Any, Collection, Optional, Tuple

import torch
from torch import Tensor


def check_int(name: str, value: Any, minimum: Optional[int] = None) -> int:
    """Validate an integer argument (NumPy integers pass, bool does not).

    Args:
        name: Name of the argument, for the message.
        value: Value of the argument. A symbolic size of a traced or compiled graph passes
            unchanged.
        minimum: Smallest allowed value, or None for no limit.

    Returns:
        The value as an int.

    Raises:
        ValueError: The value is not an integer, or is below ``minimum``.
    """
    is_symbol = isinstance(value, torch.SymInt) or (
        isinstance(value, Tensor) and torch.jit.is_tracing()
    )
    if is_symbol:
        return value
    if not isinstance(value, bool):
        try:
            # Sizes that torch.compile keeps variable are instances of int, and index() would
            # make constants of them.
            integer = value if isinstance(value, int) else operator.index(value)
            if minimum is None or integer >= minimum:
                return integer
        except TypeError:
            pass
    bound = '' if minimum is None else f' of at least {minimum}'
    raise ValueError(f'{name} must be an integer{bound}; got {value!r}')


def check_number(name: str, value: Any) -> float:
    """Validate a finite number (bool does not pass) and return it as a float.

    Raises:
        ValueError: The value is not a finite number.
    """
    if not isinstance(value, (bool, str, Tensor)):
        try:
            if math.isfinite(value):
                return float(value)
        except (TypeError, OverflowError):
            pass
    raise ValueError(f'{name} must be a finite number; got {value!r}')


def check_bool(name: str, value: Any) -> bool:
    """Validate a bool; nothing else passes, as the text 'False' would count as True.

    Raises:
        ValueError: The value is not True or False.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False; got {value!r}')
    return value


def check_choice(name: str, value: Any, choices: Collection) -> None:
    """Validate that an argument is one of a few values.

    Raises:
        ValueError: It is not; the message lists the choices.
    """
    choices = tuple(choices)  # a dict's keys could not be compared with an unhashable value
    if value not in choices:
        raise ValueError(f'{name} must be one of {choices}; got {value!r}')


def check_multiple(name: str, value: Any, divisor_name: str, divisor: Any) -> Tuple[int, int]:
    """Validate two integers of at least 1, the first a multiple of the second.

    Returns:
        Both as ints.

    Raises:
        ValueError: One is not an integer, is below 1, or the division leaves a remainder.
    """
    value, divisor = check_int(name, value), check_int(divisor_name, divisor)
    if min(value, divisor) < 1 or value % divisor:
        raise ValueError(
            f'{name} must be a multiple of {divisor_name}; '
            f'got {name}={value} and {divisor_name}={divisor}'
        )
    return value, divisor
