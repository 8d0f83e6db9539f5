"""Errors that are the user's to mend."""

import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


class UsageError(Exception):
    """Wrong input to a tool. Its text, one line, says what rule is broken, by
    what value, and how to mend it; the tools print it without a traceback.
    """


@contextmanager
def explained(rule: str, cure: str) -> Iterator[None]:
    """Have what fails inside be told as the user's to mend.

    For where other people's code runs on what the user wrote: a config, and
    what is built of it.

    Args:
        rule: What must be, and is not if something fails.
        cure: What the user can do about it.

    Raises:
        UsageError: In place of any other error, whose type, text and place it
            tells; the error itself is its cause.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f'{rule} ({describe(error)}); {cure}') from error


def describe(error: BaseException, most: int = 300) -> str:
    """An error in one line: type, text, and where it was raised."""
    # A KeyError's text is the repr of its argument.
    text = error.args[0] if isinstance(error, KeyError) and (error.args) else error
    text = ' '.join(str(text).split())
    if len(text) > most:
        text = f'{text[:most]}...'
    frames = traceback.extract_tb(error.__traceback__)
    # Where a module or a config stands is more telling than the functions
    # that it calls; and where the latter stand than this package's.
    modules = [frame for frame in frames if frame.name == '<module>']
    place = ''
    if frames and not isinstance(error, SyntaxError):
        frame = (modules or frames)[-1]
        file = '/'.join(Path(frame.filename).parts[-3:])
        place = f', in {file} line {frame.lineno}'
    return f'{type(error).__name__}{": " if text else ""}{text}{place}'
