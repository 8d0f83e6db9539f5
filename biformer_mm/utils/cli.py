"""Shared parts of the tools' command lines."""

import argparse
import difflib
import os
import os.path as osp
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

import torch
from mmengine.config import DictAction
from tabulate import tabulate

from biformer_mm.datasets.checks.problems import KINDS
from biformer_mm.utils.errors import UsageError

# What errors of the library say, and what the tools print for it.
_OPTIONS = {
    'in the call or in init_cfg': 'in init_cfg or --trust of the tools',
    'point elsewhere with': 'point elsewhere with --cfg-options',
    'if this is meant, allow': 'if this is meant: --allow',
}


def make_parser(description: str, example: str) -> argparse.ArgumentParser:
    """Make a parser whose ``--help`` ends with a working command.

    Args:
        description: The tool's docstring.
        example: The command, for the root of a checkout.
    """
    return argparse.ArgumentParser(
        description=description,
        epilog=f'example:\n  {example}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, which overrides fields of a config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='override fields of the config, such as '
        'train_dataloader.batch_size=4; nested lists in quotes, without '
        'spaces: key="[(a,b),(c,d)]"',
    )


class _ConfigOptions(DictAction):
    """Parse KEY=VALUE pairs; end in a usage error, not a traceback."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Parse a value, keeping the spaces of a text, which MMEngine drops."""
        text = val.strip('\'" ')
        if ',' in text or text.startswith(('(', '[')):
            return DictAction._parse_iterable(val)
        return DictAction._parse_int_float_bool(text)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: Any,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except ValueError:
            wrong = [text for text in values if '=' not in text] or values
            parser.error(
                f'{option_string} takes KEY=VALUE, without spaces around =; got {wrong[0]!r}'
            )
        except AssertionError:
            parser.error(f'{option_string}: brackets must come in pairs; got {" ".join(values)!r}')
        except RecursionError:  # MMEngine's parser never ends with 'dict(a=1,b=2)'
            parser.error(
                f'{option_string}: values are texts, numbers and lists of them; got '
                f'{" ".join(values)!r}; set the fields of a dict one by one: KEY.FIELD=VALUE'
            )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``, which lets a checkpoint run code."""
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle whatever the checkpoint holds, which can run any code',
    )


def add_allow(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow``, which switches rules about data and config off."""
    parser.add_argument(
        '--allow',
        nargs='+',
        type=_rule,
        default=[],
        metavar='RULE',
        help='only warn of what these rules of docs/rules.md would refuse',
    )


def _rule(name: str) -> str:
    """Return the name of a rule.

    Raises:
        ArgumentTypeError: There is no such rule.
    """
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS)
        hint = f'did you mean {close[0]}?' if close else 'docs/rules.md lists them'
        raise argparse.ArgumentTypeError(f'there is no rule {name!r}; {hint}')
    return name


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, for :func:`pick_device`."""
    parser.add_argument(
        '--device',
        default='auto',
        help="such as cpu or cuda:1; 'auto', the default, is a GPU if there is one",
    )


def pick_device(name: str) -> str:
    """Return the device that ``--device`` means.

    Raises:
        UsageError: There is no such device.
    """
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.ones(1, device=name).item()  # which fails on 'meta'
    except Exception as error:  # of many kinds, by device and torch version
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f'--device: there is no {name!r} here ({reason}); leave it out, or give cpu'
        ) from error
    return name


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape``, which becomes (height, width)."""
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        action=_Shape,
        required=True,
        metavar=('H', 'W'),
        help='height and width of the image in pixels; one number means a square',
    )


class _Shape(argparse.Action):
    """Accept one or two positive numbers."""

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


def check_writable(option: str, path: str, folder: bool = False) -> None:
    """Refuse an output path that cannot be written, before the work starts.

    Args:
        option: Its name in the message.
        path: The file or folder. Neither it nor its parents need exist.
        folder: Whether it is a folder.

    Raises:
        UsageError: The path cannot be written.
    """
    reason = _why_not_writable(path, folder)
    if reason:
        raise UsageError(f'{option}: {path} cannot be written ({reason}); give another path')


def _why_not_writable(path: str, folder: bool) -> Optional[str]:
    if not path:
        return 'it is empty'
    if osp.isdir(path) if not folder else osp.isfile(path):
        return 'it is a file' if folder else 'it is a folder'
    if not folder and path.endswith(os.sep):
        return 'it ends as a folder does'
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # such as a file among the folders
        return error.strerror
    except ValueError as error:  # NUL in it
        return str(error)
    place = Path(osp.abspath(path))
    place = place if folder else place.parent
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        return f'no right to write in {place}'
    return None


@contextmanager
def usage_errors(prog: str, options: Optional[Mapping[str, str]] = None) -> Iterator[None]:
    """End the program with one line instead of a traceback on a UsageError.

    In a distributed run, the first process of a machine prints it at once. The
    others wait, so that they print it only if the first does not fail.

    Args:
        prog: The program's name in the line.
        options: What to print for the arguments that the library's errors
            name, such as ``{'force=True': '--force'}``.
    """
    try:
        yield
    except UsageError as error:
        text = str(error)
        for argument, option in {**_OPTIONS, **(options or {})}.items():
            text = text.replace(argument, option)
        if int(os.environ.get('LOCAL_RANK', 0)) > 0:
            # The launcher ends all processes when the first has failed.
            time.sleep(10)
        sys.exit(f'{prog}: error: {text}')


def markdown_table(rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Format cells as a Markdown table.

    Args:
        rows: Cells; the first row is the header.
        left: Number of leading columns to align left; the others align right.
    """
    align = ['left' if i < left else 'right' for i in range(len(rows[0]))]
    return tabulate(rows, 'firstrow', 'pipe', disable_numparse=True, colalign=align)


def print_report(text: str) -> None:
    """Print a text that may hold any file name and be piped into ``head``."""
    if sys.stdout.errors == 'strict':  # file names need not be UTF-8
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has enough. Python must not flush again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
