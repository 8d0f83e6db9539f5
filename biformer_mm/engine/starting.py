"""A run that cannot be set up says why, and leaves nothing behind."""
import os
import os.path as osp
import shutil
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Set

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from biformer_mm.errors import explained

# What the runner does between its own making and the first iteration.
_STEPS = ('build_train_loop', 'build_optim_wrapper', 'scale_lr',
          'build_param_scheduler', 'build_val_loop', 'build_test_loop',
          '_init_model_weights')
_LOGS = '[0-9]*_[0-9]*'  # folders named by a time


class Start:
    """A run that is being set up.

    Where it fails by a config's content, a :class:`UsageError` tells. Of a
    run of one process, the folder of its log and the copy of its config, which
    the runner has written by then, are removed.

    Args:
        cfg: Config of the run.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.folder = folder = Path(cfg.work_dir).absolute()
        # Folders that are not there yet, from the innermost.
        self.missing = [p for p in (folder, *folder.parents) if not p.exists()]
        self.logs = set(folder.glob(_LOGS))
        self.copy = folder / osp.basename(cfg.filename or 'config.py')
        self.old_copy = self.copy.read_bytes() if self.copy.is_file() else None

    @contextmanager
    def step(self, file: Optional[str] = None, to: str = '') -> Iterator[None]:
        """What is set up inside.

        Args:
            file: What it depends on; else it is the config.
            to: What it does, as in ' to build', for the message.

        Raises:
            UsageError: In place of any other error.
        """
        file = file or self.cfg.filename
        with self._cleaned(), explained(
                f'{file} must be what a run can use{to}',
                'mend it, or --cfg-options'):
            yield

    @contextmanager
    def _cleaned(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if self.cfg.launcher == 'none':
                self._remove_traces()
            raise

    def watch(self, runner: Runner) -> None:
        """Take what the runner does before the first iteration as steps."""
        for name in _STEPS:
            to = ' to ' + name.strip('_').replace('_', ' ')
            setattr(runner, name,
                    _within(partial(self.step, to=to), getattr(runner, name)))
        runner.load_or_resume = _within(
            partial(self.step, self.cfg.get('load_from'), ' to go on from'),
            runner.load_or_resume)
        # Its errors are told by those who call it.
        runner.load_checkpoint = _within(self._cleaned, runner.load_checkpoint)

    def _new_logs(self) -> Set[Path]:
        return set(self.folder.glob(_LOGS)) - self.logs

    def _remove_traces(self) -> None:
        log = getattr(MMLogger.get_current_instance(), '_log_file', None)
        if log and Path(log).absolute().parent in self._new_logs():
            shutil.rmtree(osp.dirname(log), ignore_errors=True)
        if self.old_copy is None:
            self.copy.unlink(missing_ok=True)
        elif self.copy.read_bytes() != self.old_copy:
            self.copy.write_bytes(self.old_copy)
        for path in (*self._new_logs(), *self.missing):
            try:
                os.rmdir(path)
            except OSError:  # others have put something there
                pass


def _within(context: Callable, method: Callable) -> Callable:
    """A method that runs in a context."""

    @wraps(method)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with context():
            return method(*args, **kwargs)

    return inside
