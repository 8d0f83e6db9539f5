"""Write checkpoints that are complete or absent, whatever kills the run."""

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

from biformer_mm.ops.validation import check_bool, check_int
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
_OF_RANK = re.compile(r'zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$')
_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)(?:_iter_(\d+))?\.pth')


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, for runs that are killed and disks that fill.

    A checkpoint gets its final name once it is complete, and the one that it
    replaces is removed once ``last_checkpoint`` names the new one. MMEngine
    writes under the final name and removes first. tools/train.py uses this
    hook in place of MMEngine's.

    Args:
        on_failure: What to do when a checkpoint cannot be written: 'stop' the
            run, or 'go_on' with a line in the log. Earlier checkpoints are
            kept either way.
        kwargs: Arguments of MMEngine's hook. Values that it would ignore, or
            fail on when it saves, are refused.

    Raises:
        ValueError: ``on_failure`` is neither, or MMEngine's hook has no such
            argument or cannot use its value.
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
        """Choose the file backend, and start as MMEngine does."""
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
        """Remove replaced files after saving; if it failed, undo MMEngine's notes.

        MMEngine notes what it saves, and its score, before it writes.

        Raises:
            UsageError: The file cannot be written, and ``on_failure`` is 'stop'.
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
    """Check arguments that MMEngine would fail on only when it saves.

    Returns:
        The arguments, with NumPy's integers turned into Python's.
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
            given[name] = check_int(name, given[name])
            if given[name] != -1:
                check_int(f'{name}, if not -1,', given[name], 1)
    if 'save_begin' in given:
        given['save_begin'] = check_int('save_begin', given['save_begin'], 0)
    for name in ('by_epoch', 'save_optimizer', 'save_param_scheduler', 'save_last'):
        check_bool(name, given.get(name, True))
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
    """Write local files atomically, and postpone removals."""

    def put(self, obj: bytes, filepath: str) -> None:
        """Write a file completely or not at all.

        Raises:
            OSError: It cannot be written; an existing file is unchanged.
        """
        with whole_file(filepath) as unfinished, open(unfinished, 'wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        if str(filepath) in _outdated:
            _outdated.remove(str(filepath))

    def remove(self, filepath: str) -> None:
        """Mark a file for removal once the next is saved."""
        _outdated.append(str(filepath))


def find_whole_checkpoint(work_dir: str) -> Optional[str]:
    """Find the last complete checkpoint.

    Args:
        work_dir: A run's work directory.

    Returns:
        The path in ``last_checkpoint`` or, if that file is not complete, the
        complete checkpoint of the highest epoch or iteration; None if there is
        none.
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
    """Return whether a checkpoint exists and is complete.

    torch.save writes a ZIP file, whose directory comes last. In a folder of DeepSpeed, each
    file must be complete, and none missing before the last process's.
    """
    if osp.isdir(path):
        files = [osp.join(path, name) for name in os.listdir(path) if name.endswith('.pt')]
        ranks = {int(found[1]) for found in map(_OF_RANK.search, files) if found}
        return bool(files) and ranks == set(range(len(ranks))) and all(map(is_whole, files))
    try:
        return osp.isfile(path) and zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end says that there are other parts
        return False


def remove_unfinished(folder: str) -> None:
    """Remove half-written checkpoints that killed runs left."""
    for name in _listdir(folder):
        if re.fullmatch(r'.+\.pth\.\d+\.tmp', name):
            os.remove(osp.join(folder, name))


def _listdir(folder: str) -> List[str]:
    return os.listdir(folder) if osp.isdir(folder) else []
