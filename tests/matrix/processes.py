"""Start the processes that run the matrix, one for each config."""

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Sequence

from matrix.data import make_data
from tool_runner import ROOT

Outcomes = Dict[str, Dict]  # by column, as run.py writes them


def start(
    pool: ThreadPoolExecutor, configs: Sequence[str], folder: Path
) -> Dict[str, 'Future[Outcomes]']:
    """Run configs among data that are made in a folder.

    A config whose results are there already is not run again.
    """
    if not (folder / 'data').exists():
        make_data(folder)
    return {config: pool.submit(_run, config, folder) for config in configs}


def _run(config: str, folder: Path) -> Outcomes:
    path = folder / f'{Path(config).name}.json'
    if not path.exists():
        result = subprocess.run(
            [sys.executable, '-m', 'matrix.run', config, folder],
            env={**os.environ, **_environment()},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert path.exists(), result.stdout[-5000:]
    return {x['column']: x for x in json.loads(path.read_text())}


def _environment() -> Dict[str, str]:
    """A thread for each process; and DeepSpeed, which compiles, finds ninja
    beside Python."""
    places = dict(PATH=str(Path(sys.executable).parent), PYTHONPATH=str(ROOT / 'tests'))
    return dict(
        OMP_NUM_THREADS='1',
        **{
            name: os.pathsep.join(filter(None, (place, os.environ.get(name))))
            for name, place in places.items()
        },
    )
