"""What some of the tools share; what all do is in command_line.py."""

import argparse
import os
import sys
from typing import Any, Optional, Sequence


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape``, which becomes (height, width)."""
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        action=_Shape,
        required=True,
        metavar=('H', 'W'),
        help='height and width of the image in pixels; H alone is a square',
    )


class _Shape(argparse.Action):
    """One or two positive numbers; others end in the usage."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: Any,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        if len(values) > 2 or min(values) < 1:
            parser.error(
                f'{option_string} takes a height and a width in '
                'pixels, or the side of a square; got '
                f'{" ".join(map(str, values))}'
            )
        setattr(namespace, self.dest, (values[0], values[-1]))


def markdown_table(rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """A table whose columns are aligned in the source, too.

    Args:
        rows: Cells; the first row is the head.
        left: How many columns, the first, are flush left; others are right.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        for row in rows
    ]
    rule = ['-' * (width + 1) + ('-' if i < left else ':') for i, width in enumerate(widths)]
    lines = [f'| {" | ".join(line)} |' for line in lines]
    return '\n'.join([lines[0], f'|{"|".join(rule)}|', *lines[1:]])


def print_report(text: str) -> None:
    """Print what may be piped into ``head``, and names of files."""
    if sys.stdout.errors == 'strict':  # names need not be UTF-8
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has enough. Python must not try again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
