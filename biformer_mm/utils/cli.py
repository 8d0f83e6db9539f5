"""Shared parts of the tools' command lines."""

import argparse
import difflib
import os
import os.path as osp
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

import torch
from mmengine.config import Config, DictAction
from tabulate import tabulate

from biformer_mm.datasets.checks.problems import KINDS
from biformer_mm.utils import register_all_modules
from biformer_mm.utils.config_types import framework_of
from biformer_mm.utils.errors import UsageError, explained

_SPLITS = ('train', 'val', 'test')
_KINDS = {dict: 'a dict', list: 'a list', str: 'text', int: 'an integer'}
# The types that MMEngine's runner takes for a field, unless it is None or absent.
_FIELDS = {
    (dict,): (
        'model',
        'data_preprocessor',
        'optim_wrapper',
        'auto_scale_lr',
        'default_hooks',
        'env_cfg',
        'log_processor',
        'randomness',
        'visualizer',
        'model_wrapper_cfg',
        *(
            f'{split}_{part}'
            for split in _SPLITS
            for part in ('cfg', 'dataloader', 'dataloader.dataset')
        ),
    ),
    (dict, list): ('param_scheduler', 'val_evaluator', 'test_evaluator'),
    (list,): ('custom_hooks',),
    (str,): (
        'default_scope',
        'work_dir',
        'load_from',
        *(
            f'{split}_dataloader.dataset.{part}'
            for split in _SPLITS
            for part in ('data_root', 'ann_file')
        ),
    ),
    (int,): (
        *(
            f'{split}_dataloader.{part}'
            for split in _SPLITS
            for part in ('batch_size', 'num_workers')
        ),
        'train_cfg.max_epochs',
        'train_cfg.max_iters',
        'train_cfg.val_interval',
        'optim_wrapper.accumulative_counts',
    ),
}
# The runner divides by these.
_DIVISORS = (
    'train_cfg.val_interval',
    'optim_wrapper.accumulative_counts',
    *(f'{split}_dataloader.batch_size' for split in _SPLITS),
)

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


def read_config(path: str, options: Dict) -> Config:
    """Read a config and override fields of it.

    First calls :func:`biformer_mm.utils.register_all_modules`, as the config
    may name our hooks.

    Raises:
        UsageError: The file does not exist, is not a config or cannot be read,
            or a field cannot be overridden.
    """
    register_all_modules()
    if not osp.isfile(path):
        folder = Path(path).parent
        names = [p.name for p in folder.glob('*.py') if p.is_file()] if osp.isdir(folder) else []
        close = difflib.get_close_matches(Path(path).name, names)
        hint = (
            f'did you mean {folder / close[0]}?' if close else "the suite's configs are in configs/"
        )
        raise UsageError(f'there is no config {path}; {hint}')
    if not path.endswith(('.py', '.json', '.yaml', '.yml')):
        raise UsageError(
            f'a config is a .py, .json or .yaml file; got {path}: give one of configs/'
        )
    with explained(
        f'{path} must be a config that can be read', 'correct it, or start from one of configs/'
    ):
        try:
            cfg = Config.fromfile(path)
        except SystemExit as error:  # a status, which could be 0
            raise RuntimeError(f'it exits, with {error.code}') from error
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise UsageError(
            f'--cfg-options {options} do not fit {path} '
            f'({type(error).__name__}: {error}); name fields '
            'that it has, or new ones of its dicts'
        ) from error
    _check_fields(cfg)
    framework = framework_of(cfg.get('model'))
    if framework and cfg.get('default_scope') is None:
        cfg.default_scope = framework  # pure-Python configs need none
    return cfg


def _check_fields(cfg: Config) -> None:
    """Refuse fields whose type MMEngine does not take.

    Raises:
        UsageError: There is such a field; the message names it.
    """
    for kinds, names in _FIELDS.items():
        for name in names:
            value = _field(cfg, name)
            if value is not None and not isinstance(value, kinds):
                kind = ' or '.join(_KINDS[kind] for kind in kinds)
                raise UsageError(
                    f'{name} of a config must be {kind}; got '
                    f'{value!r}; correct {cfg.filename} or '
                    '--cfg-options'
                )
    for name in _DIVISORS:
        value = _field(cfg, name)
        if value is not None and value < 1:
            raise UsageError(
                f'{name} of a config must be 1 or more; got '
                f'{value}; correct {cfg.filename} or --cfg-options'
            )
    for name, hook in (cfg.get('default_hooks') or {}).items():
        _check_hook(f'default_hooks.{name}', hook or {}, cfg)
    for number, hook in enumerate(cfg.get('custom_hooks') or ()):
        _check_hook(f'custom_hooks.{number}', hook, cfg)


def _check_hook(name: str, hook: Any, cfg: Config) -> None:
    if not isinstance(hook, dict):
        raise UsageError(
            f'{name} of a config must be a dict; got {hook!r}; '
            f'correct {cfg.filename} or --cfg-options'
        )


def _field(cfg: Config, name: str) -> Any:
    """Return a field by its dotted name, or None."""
    part = cfg
    for key in name.split('.'):
        if not isinstance(part, (dict, Config)):
            return None
        part = part.get(key)
    return part


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
