"""Run one step in a process of its own.

    python -m gpu.step FOLDER UNTIL MODULE [ARGUMENT ...] [--dry]

MODULE has ``run(step)``, which takes the arguments, if there are any, too.
UNTIL is when the process will be ended, in seconds as of ``date +%s``.
"""

import argparse
import os
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator

from gpu.results import Results


class Step:
    """What a step works with.

    Attributes:
        name: Key of its rows: the last part of its module's name.
        results: The results so far.
        folder: Where the results lie.
        until: When it will be ended, in seconds as of ``time.time``.
        dry: Whether it only shows that it runs: tiny sizes on a CPU.
    """

    def __init__(self, name: str, folder: Path, until: float, dry: bool) -> None:
        self.name = name
        self.folder = folder
        self.until = until
        self.dry = dry
        self.results = Results(folder)

    @property
    def sizes(self) -> Any:
        """What is measured, a :class:`gpu.sizes.Sizes`."""
        from gpu import sizes

        return sizes.DRY if self.dry else sizes.FULL

    def seconds_left(self) -> float:
        return self.until - time.time()

    def add(self, *rows: Dict) -> None:
        """Write rows and log them."""
        for row in rows:
            self.results.add(self.name, row)
            print(row, flush=True)

    @contextmanager
    def case(self, **about: Any) -> Iterator[Dict]:
        """A row that is written whether or not the block fails."""
        from measure import recorded

        row = dict(about, error=None)
        with recorded(row):
            yield row
        self.add(row)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('until', type=float)
    parser.add_argument('module')
    parser.add_argument('arguments', nargs='*')
    parser.add_argument('--dry', action='store_true')
    args = parser.parse_args()
    name = args.module.rpartition('.')[2]
    if name != 'tests':  # wrong kernels are to be measured, not refused
        os.environ['BIFORMER_MM_SELF_CHECK'] = '0'
    step = Step(name, args.folder, args.until, args.dry)
    import_module(args.module).run(step, *args.arguments)


if __name__ == '__main__':
    main()
