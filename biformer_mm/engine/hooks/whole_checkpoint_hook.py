"""Checkpoints that are complete or absent, whatever kills the run."""

import os
import os.path as osp
import re
import zipfile
from contextlib import contextmanager
from copy import copy
from inspect import signature
from typing import Any, Dict, Iterator, List, Optional

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from biformer_mm.ops.validation import flag, whole
from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.errors import UsageError

_BACKEND = 'biformer_mm.utils.atomic_file'
_MEANING = dict(
    out_dir='a path',
    filename_tmpl='text',
    backend_args='a dict of a backend',
    file_client_args='a dict of a client',
)
# Attributes in which MMEngine's hook notes what checkpoints there are.
_NOTES = ('last_ckpt', 'keep_ckpt_ids', 'best_ckpt_path', 'best_ckpt_path_dict')
_outdated: List[str] = []  # files to remove when the next is there
_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)(?:_iter_(\d+))?\.pth')


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, for runs that are killed and disks that fill.

    A checkpoint gets its name when it is written as a whole, and when
    ``last_checkpoint`` names it, the one that it replaces is removed;
    MMEngine's writes under the final name and removes first. tools/train.py
    uses it in MMEngine's place.

    Args:
        on_failure: What to do when a checkpoint cannot be written: 'stop' the
            run, or 'go_on' with a line in the log. The checkpoints before are
            kept either way.
        kwargs: As MMEngine's; what it would pass over or fail on while it
            saves is refused.

    Raises:
        ValueError: ``on_failure`` is neither, or an argument is none of
            MMEngine's or has no value that it can go by.
    """

    def __init__(self, on_failure: str = 'stop', **kwargs: Any) -> None:
        try:
            super().__init__(**_checked(kwargs))
        except (AssertionError, KeyError, TypeError) as error:
            raise ValueError(
                'save_best, rule and the keys must be as '
                f"MMEngine's CheckpointHook says: {error}; got "
                f'{kwargs}'
            ) from error
        if on_failure not in ('stop', 'go_on'):
            raise ValueError(f"on_failure must be 'stop' or 'go_on'; got {on_failure!r}")
        self.on_failure = on_failure

    def before_train(self, runner: Runner) -> None:
        """Choose the file backend, and begin as MMEngine does."""
        folder = self.out_dir or runner.work_dir
        if (
            self.backend_args is None
            and self.file_client_args is None
            and ('://' not in str(folder))
        ):
            self.backend_args = dict(backend=_BACKEND)
        super().before_train(runner)
        if is_main_process() and osp.isdir(self.out_dir):
            remove_unfinished(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: Dict) -> None:
        with self._saving(runner, f'the checkpoint of step {step}'):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict) -> None:
        with self._saving(runner, 'the best checkpoint'):
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _saving(self, runner: Runner, what: str) -> Iterator[None]:
        """Remove what was replaced inside or, if that failed, forget it.

        MMEngine notes what it saves, and how good that is, before it writes.

        Raises:
            UsageError: Nothing can be written, and the run is to stop then.
        """
        hub = runner.message_hub.runtime_info
        told, outdated = dict(hub), _outdated[:]
        notes = {name: copy(value) for name, value in vars(self).items() if name in _NOTES}
        try:
            yield
        except OSError as error:
            vars(self).update(notes)
            hub.clear()
            hub.update(told)
            _outdated[:] = outdated
            kept = find_whole_checkpoint(runner.work_dir)
            message = (
                f'{what} cannot be written to {self.out_dir} '
                f'({error.strerror or error}); the last whole one is '
                f'{kept or "none"}'
            )
            if self.on_failure == 'stop':
                raise UsageError(f'{message}; free space and go on with --resume') from error
            runner.logger.error(message)
        else:
            while _outdated:
                path = _outdated.pop()
                if osp.exists(path):
                    os.remove(path)


def _checked(given: Dict[str, Any]) -> Dict[str, Any]:
    """Check what MMEngine takes as it is and fails on only when it saves.

    Returns:
        The arguments, NumPy's integers as Python's.
    """
    given = dict(given)
    known = set(signature(CheckpointHook.__init__).parameters) - {'self'}
    for name in given:
        if name not in known:
            raise ValueError(
                f'CheckpointHook has no {name}; it takes on_failure, {", ".join(sorted(known))}'
            )
    for name in ('interval', 'max_keep_ckpts'):
        if name in given:
            given[name] = whole(name, given[name])
            if given[name] != -1:
                whole(f'{name}, if not -1,', given[name], 1)
    if 'save_begin' in given:
        given['save_begin'] = whole('save_begin', given['save_begin'], 0)
    for name in ('by_epoch', 'save_optimizer', 'save_param_scheduler', 'save_last'):
        flag(name, given.get(name, True))
    for name, kinds in (
        ('out_dir', (str, os.PathLike)),
        ('filename_tmpl', str),
        ('backend_args', dict),
        ('file_client_args', dict),
    ):
        value = given.get(name)
        if value is not None and (not isinstance(value, kinds) or not value):
            raise ValueError(
                f'{name} of CheckpointHook must be None or {_MEANING[name]}; got {value!r}'
            )
    template = given.get('filename_tmpl')
    if template is not None:
        try:
            differ = template.format(1) != template.format(2)
        except (IndexError, KeyError, ValueError, AttributeError):
            differ = False
        if not differ:
            raise ValueError(
                f'filename_tmpl of CheckpointHook must have {{}} for the number; got {template!r}'
            )
    return given


@register_backend(_BACKEND)
class WholeFileBackend(LocalBackend):
    """Local files that appear whole; what is to be removed is only noted."""

    def put(self, obj: bytes, filepath: str) -> None:
        """Write a file, wholly or not at all.

        Raises:
            OSError: It cannot be written; what was there still is.
        """
        with whole_file(filepath) as unfinished, open(unfinished, 'wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        if str(filepath) in _outdated:
            _outdated.remove(str(filepath))

    def remove(self, filepath: str) -> None:
        """Have a file removed as soon as the next is saved."""
        _outdated.append(str(filepath))


def find_whole_checkpoint(work_dir: str) -> Optional[str]:
    """The last checkpoint that was written as a whole.

    Args:
        work_dir: A run's work directory.

    Returns:
        Path of what ``last_checkpoint`` names or, if that is not whole, of the
        highest epoch or iteration that is; None if there is none.
    """
    candidates = sorted(
        (int(match[1]), int(match[2] or 0), osp.join(work_dir, match[0]))
        for match in map(_NUMBERED.fullmatch, _listdir(work_dir))
        if match
    )
    paths = [path for *_, path in candidates]
    named = osp.join(work_dir, 'last_checkpoint')
    if osp.isfile(named):
        with open(named, encoding='utf-8') as file:
            paths.append(file.read().strip())
    return next(filter(is_whole, reversed(paths)), None)


def is_whole(path: str) -> bool:
    """Whether a checkpoint is there and has its end; DeepSpeed's folders pass.

    torch.save writes a ZIP file, whose directory comes last.
    """
    try:
        return osp.isdir(path) or osp.isfile(path) and zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end says that there are other parts
        return False


def remove_unfinished(folder: str) -> None:
    """Remove what killed runs have left half written among checkpoints."""
    for name in _listdir(folder):
        if re.fullmatch(r'.+\.pth\.\d+\.tmp', name):
            os.remove(osp.join(folder, name))


def _listdir(folder: str) -> List[str]:
    return os.listdir(folder) if osp.isdir(folder) else []
