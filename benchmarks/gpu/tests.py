"""The tests of the kernels and of compiling, without those that take longest.

Runs in parallel where pytest-xdist is installed; nothing is timed meanwhile.
"""

import time
from importlib.util import find_spec
from typing import Dict, List

from gpu.step import Step

LEAST_SECONDS = 5  # that must be left for another test
OUTCOMES = ('passed', 'failed', 'skipped')


class Recorder:
    """A plugin of pytest that writes a row per failure as it happens."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.counts = dict.fromkeys(OUTCOMES, 0)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == 'call' or report.outcome != 'passed':
            self.counts[report.outcome] += 1
        if report.failed:
            self._fail(report)

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.counts['failed'] += 1
            self._fail(report)

    def _fail(self, report) -> None:
        lines = str(report.longrepr).strip().splitlines()
        why = [line[2:].strip() for line in lines if line.startswith('E ')]
        self.step.add(dict(test=report.nodeid, error=(why or lines[-1:] or [''])[0]))


def run(step: Step) -> None:
    import pytest

    until = int(step.until - LEAST_SECONDS)
    args = [*step.sizes.tests, '-q', '--tb=short', '-p', 'no:cacheprovider', '--until', str(until)]
    if find_spec('xdist'):
        args += ['-n', str(step.sizes.workers)]
    recorder = Recorder(step)
    status = int(pytest.main(args, plugins=[recorder]))
    error = None
    if status not in (0, 1) or not recorder.counts['passed']:
        error = f'pytest ended with status {status}'
    step.add(dict(test='all', **recorder.counts, in_time=time.time() < until, error=error))


def lines(rows: List[Dict]) -> List[str]:
    """The counts; failures are listed with those of all steps."""
    return [
        ', '.join(f'{row[name]} {name}' for name in OUTCOMES)
        + ('' if row['in_time'] else '; there was no time for the rest')
        for row in rows
        if row['test'] == 'all'
    ]
