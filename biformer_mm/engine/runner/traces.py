"""Remove what a run that cannot be set up leaves on disk."""

import os
import os.path as osp
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Set

from mmengine.config import Config
from mmengine.logging import MMLogger

_LOGS = '[0-9]*_[0-9]*'  # folders named by a time


class Traces:
    """Remember the state of a work directory before the runner writes to it.

    Args:
        cfg: Config of the run, which has not started.
    """

    def __init__(self, cfg: Config) -> None:
        self.folder = folder = Path(cfg.work_dir).absolute()
        # Folders that are not there yet, from the innermost.
        self.missing = [p for p in (folder, *folder.parents) if not p.exists()]
        self.logs = set(folder.glob(_LOGS))
        self.copy = folder / osp.basename(cfg.filename or 'config.py')
        self.old_copy = self.copy.read_bytes() if self.copy.is_file() else None

    def remove(self) -> None:
        """Remove the new log folder and config copy; older files stay."""
        log = getattr(MMLogger.get_current_instance(), '_log_file', None)
        if log and Path(log).absolute().parent in self._new_logs():
            shutil.rmtree(osp.dirname(log), ignore_errors=True)
        if self.old_copy is None:
            self.copy.unlink(missing_ok=True)
        elif self.copy.read_bytes() != self.old_copy:
            self.copy.write_bytes(self.old_copy)
        for path in (*self._new_logs(), *self.missing):
            with suppress(OSError):  # others have put something there
                os.rmdir(path)

    def _new_logs(self) -> Set[Path]:
        return set(self.folder.glob(_LOGS)) - self.logs
