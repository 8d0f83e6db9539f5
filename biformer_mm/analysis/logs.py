"""Read MMEngine's logs of a training and join its restarts.

A run is the content of one work directory: one session, or several, each of
which resumed from a checkpoint of an earlier one. Points are (iteration,
value); iterations count from 1 over the whole run.
"""

import json
import os.path as osp
import re
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple

from biformer_mm.utils.errors import UsageError

Curve = Dict[int, float]


class Session(NamedTuple):
    """One start of the training script.

    Attributes:
        name: Its time stamp.
        start: Number of iterations before it.
        training: Curve of each quantity that training logged.
        validation: Curve of each quantity that validation logged.
    """

    name: str
    start: int
    training: Dict[str, Curve]
    validation: Dict[str, Curve]


class Run(NamedTuple):
    """The joined sessions of a work directory.

    Attributes:
        sessions: In order of time.
        training: Curve of each quantity that training logged.
        validation: Curve of each quantity that validation logged.
    """

    sessions: List[Session]
    training: Dict[str, Curve]
    validation: Dict[str, Curve]


def read_run(folder: str, warn: Callable[[str], None]) -> Run:
    """Read the logs of a run.

    The points of a later session replace earlier points from its start on.

    Args:
        folder: A work directory, or the folder of a single session.
        warn: Called with a text for each line that is skipped.

    Raises:
        UsageError: The folder does not exist or has no training log.
    """
    if not osp.isdir(folder):
        raise UsageError(f'there is no folder {folder}; give the work_dir of a training')
    found = sorted(Path(folder).glob('*/vis_data')) or [
        path for path in [Path(folder, 'vis_data')] if path.is_dir()
    ]
    read = (read_session(path.parent.resolve(), warn) for path in found)
    sessions = [session for session in read if session.training]
    if not sessions:
        raise UsageError(
            f'{folder} must hold the JSON logs of a training by MMEngine, '
            'TIMESTAMP/vis_data/TIMESTAMP.json with a record at least; it has '
            'none; give the work_dir of a training'
        )
    run = Run(sessions, {}, {})
    for session in sessions:
        for joined, new in ((run.training, session.training), (run.validation, session.validation)):
            for curve in joined.values():
                for iteration in [i for i in curve if i > session.start]:
                    del curve[iteration]
            for name, curve in new.items():
                joined.setdefault(name, {}).update(curve)
    return run


def read_session(folder: Path, warn: Callable[[str], None]) -> Session:
    """Read one session's logs.

    Args:
        folder: WORK_DIR/TIMESTAMP.
        warn: Called with a text for each line that is skipped.
    """
    path = folder / 'vis_data' / f'{folder.name}.json'
    if not path.is_file():  # this file has the same records, and those of hooks
        path = path.with_name('scalars.json')
    start, epoch_length = _read_text_log(folder / f'{folder.name}.log')
    training: Dict[str, Curve] = {}
    validation: Dict[str, Curve] = {}
    last = 0
    for record in _read_records(path, warn):
        if 'iter' in record:
            last, curves, prefix = record['iter'], training, 'train/'
            iteration = last
            if start is None:  # no text log: this is close to the start
                start = last - 1
        else:
            curves, prefix = validation, 'val/'
            # The step is an iteration or an epoch: a validation is never
            # before the training that was logged before it.
            step = record.get('step', 0)
            iteration = max(last, step)
            if step < last <= step * epoch_length:
                iteration = step * epoch_length
        for name, value in record.items():
            if name not in ('iter', 'epoch', 'step') and _is_number(value):
                if name.startswith(prefix):  # as LogProcessor may write it
                    name = name[len(prefix) :]
                curves.setdefault(name, {})[iteration] = value
    return Session(folder.name, start or 0, training, validation)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (
        not isinstance(value, bool) and isinstance(value, int) and abs(value) < 2**1000
    )


def _read_text_log(path: Path) -> Tuple:
    """Read what the JSON log lacks.

    Returns:
        Iterations before the session, None if unknown; and iterations per
        epoch, 0 if unknown.
    """
    if not path.is_file():
        return None, 0
    text = path.read_text(encoding='utf-8', errors='replace')
    resumed = re.search(r'resumed epoch: \d+, iter: (\d+)', text)
    length = re.search(r'Epoch\(train\) *\[ *\d+\]\[ *\d+/(\d+)\]', text)
    return (int(resumed.group(1)) if resumed else 0, int(length.group(1)) if length else 0)


def _read_records(path: Path, warn: Callable[[str], None]) -> List[Dict]:
    """Read a file of one JSON object per line."""
    if not path.is_file():
        return []
    records = []
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and all(
            _is_count(record.get(key, 0)) for key in ('iter', 'step')
        ):
            records.append(record)
        elif line.strip():
            warn(
                f'line {number} of {path} is not a record, as when a run is '
                'killed while it writes; it is left out'
            )
    return records
