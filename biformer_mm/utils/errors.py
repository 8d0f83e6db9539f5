"""Errors the user can fix."""

import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

_PACKAGE = Path(__file__).resolve().parents[1]
# What nobody raises on purpose to refuse an argument.
_BUGS = (AssertionError, AttributeError, IndexError, KeyError, NameError, ZeroDivisionError)


class UsageError(Exception):
    """Wrong input to a tool.

    The text, one line, says which rule is broken, by which value, and what to
    do. Tools print it without a traceback.
    """


@contextmanager
def explained(rule: str, cure: str) -> Iterator[None]:
    """Re-raise any exception from the block as a UsageError.

    For code of others that runs on what the user wrote: a config, and what is
    built from it. Bugs of this package pass through, see :func:`is_own_bug`.

    Args:
        rule: The rule that is broken if the block fails.
        cure: What the user can do about it.

    Raises:
        UsageError: The block fails. The text has the original error's type,
            text and place; the error itself is the cause.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if is_own_bug(error):
            raise
        raise UsageError(f'{rule} ({describe(error)}); {cure}') from error


def is_own_bug(error: BaseException) -> bool:
    """Return whether an error comes from a bug in biformer_mm.

    That is an AttributeError, IndexError or the like that a line of this
    package raised, and not what that line called. A ValueError or TypeError is
    how our models refuse an argument.
    """
    # MMEngine's registry raises what a constructor raised once more.
    while type(error.__context__) is type(error):
        error = error.__context__
    frames = list(traceback.walk_tb(error.__traceback__))
    if not isinstance(error, _BUGS) or not frames:
        return False
    return _PACKAGE in Path(frames[-1][0].f_code.co_filename).resolve().parents


def describe(error: BaseException, most: int = 300) -> str:
    """Return an error in one line: type, text, and where it was raised."""
    # A KeyError's text is the repr of its argument.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    if len(text) > most:
        text = f'{text[:most]}...'
    frames = traceback.extract_tb(error.__traceback__)
    # The line of a module or config says more than the functions that it calls.
    modules = [frame for frame in frames if frame.name == '<module>']
    place = ''
    if frames and not isinstance(error, SyntaxError):
        frame = (modules or frames)[-1]
        file = '/'.join(Path(frame.filename).parts[-3:])
        place = f', in {file} line {frame.lineno}'
    return f'{type(error).__name__}{": " if text else ""}{text}{place}'
