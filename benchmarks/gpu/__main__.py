"""Check and measure everything on one GPU, in one call of a few minutes.

Each step runs in a process of its own for so many seconds at most; what it
has measured by then is kept. Steps that are extra run only where much time is
left. Writes results.json, log.txt (what all steps print) and profile.txt.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import IO, Dict, List, NamedTuple, Sequence, Tuple

import goals
from report import DEFAULT_OUT, environment

from gpu import sizes
from gpu.results import Results

PLANNED = 390  # seconds
LIMIT = 455
EXTRA = 60  # seconds that must be left of the planned ones for an extra step
SHOWN = 40  # failures
DEFINITIONS = dict(
    floor='bytes that must be moved over the bandwidth of a copy (read and '
    'written bytes), or FLOPs over the rate of a matrix product, the larger; '
    'forward: q, k, v, o, 4 * d FLOPs a pair; backward: q, k, v, o, do, dq, '
    'dk, dv, 10 * d',
    seconds='replays of a CUDA graph over 3 inputs in turn; where a row has '
    "no graph, and in 'eager_seconds', eager calls",
    peak_memory='bytes of weights, and of what a step needs besides',
    errors='|x - reference in fp64| / |reference|',
)


class Part(NamedTuple):
    """A step of the plan: its seconds at most, module and arguments."""

    seconds: float
    module: str
    arguments: Tuple[str, ...] = ()
    extra: bool = False

    @property
    def step(self) -> str:
        return self.module.rpartition('.')[2]

    @property
    def name(self) -> str:
        return ' '.join([self.step, *self.arguments])


PLAN = (
    Part(15, 'gpu.ceilings'),
    Part(35, 'gpu.smoke'),
    Part(60, 'gpu.tests'),
    Part(80, 'gpu.op'),
    Part(60, 'gpu.backbones', ('stl',)),
    Part(75, 'gpu.backbones', ('small',)),
    Part(30, 'gpu.profile'),
    Part(25, 'gpu.probes'),
    Part(60, 'gpu.op', ('fp16', 'fp32'), extra=True),
    Part(40, 'gpu.growth_step', extra=True),
    Part(60, 'gpu.backbones', ('attention',), extra=True),
)


def run_plan(plan: Sequence[Part], folder: Path, dry: bool) -> None:
    """Run steps and print what they found, until the time is over."""
    start = time.monotonic()
    for name in ('results.json', 'profile.txt'):
        (folder / name).unlink(missing_ok=True)
    results = Results(folder)
    results.data = dict(
        benchmark='gpu',
        environment=dict(
            environment('cpu' if dry else 'cuda'),
            command='bash benchmarks/run_gpu.sh' + ' --dry' * dry,
        ),
        settings=dict(dtype=(sizes.DRY if dry else sizes.FULL).dtype, dry=dry),
        definitions=DEFINITIONS,
    )
    results.write()
    table = ''
    with (folder / 'log.txt').open('w') as log:
        for part in plan:
            elapsed = time.monotonic() - start
            if part.extra and PLANNED - elapsed < EXTRA:
                continue
            status = run_part(part, min(part.seconds, LIMIT - elapsed), folder, dry, log)
            seen = len(results.rows(part.step))
            results = Results(folder)
            results.add(
                'steps',
                dict(step=part.name, seconds=time.monotonic() - start - elapsed, error=status),
            )
            show(part, results.rows('steps')[-1], results.rows(part.step)[seen:], log)
            found = goals.summarize(results.data, measured=True)
            if found != table:
                say(f'\n{found}', log)
            table = found
        say(f'\n{goals.summarize(results.data)}', log)
        say(f'All in {time.monotonic() - start:.0f} s.', log)
        for line in failures(results.data)[:SHOWN]:
            say(f'FAILED: {line}', log)
    results.path.with_suffix('.new').unlink(missing_ok=True)


def run_part(part: Part, seconds: float, folder: Path, dry: bool, log: IO[str]) -> str:
    """Run a step; return why it did not end well, '' if it did."""
    if seconds <= 0:
        return 'no time was left'
    command = [
        sys.executable,
        '-m',
        'gpu.step',
        str(folder),
        f'{time.time() + seconds:.1f}',
        part.module,
        *part.arguments,
        *['--dry'] * dry,
    ]
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f'stopped after {seconds:.0f} s'
    finally:
        end(process)
    return f'ended with status {status}' if status else ''


def end(process: subprocess.Popen, grace: float = 5) -> None:
    """End a step and the processes it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(grace)
        except ProcessLookupError:  # none is left
            return
        except subprocess.TimeoutExpired:
            pass


def show(part: Part, about: Dict, rows: List[Dict], log: IO[str]) -> None:
    """Print how a step ended, and its figures."""
    ended = about['error'] or 'done'
    say(f'\n== {part.name}: {ended}, {about["seconds"]:.0f} s', log)
    try:
        for text in import_module(part.module).lines(rows):
            say(text, log)
    except Exception:  # the next step is to run all the same
        say(traceback.format_exc(), log)


def say(text: str, log: IO[str]) -> None:
    """Print at once, into the log as well."""
    print(text, flush=True)
    log.write(text + '\n')
    log.flush()


def failures(data: Dict) -> List[str]:
    """What went wrong, a line per step and message: the first case."""
    found: Dict[Tuple[str, str], List[str]] = {}
    for step, rows in data.items():
        for row in rows if isinstance(rows, list) else ():
            if row['error'] and not row.get('left_out'):
                about = ', '.join(
                    f'{key}={value}'
                    for key, value in row.items()
                    if isinstance(value, (str, int)) and key != 'error'
                )
                found.setdefault((step, row['error'][:300]), []).append(about)
    return [
        f'{step}, {cases[0]}: {error}' + f' (and {len(cases) - 1} more)' * (len(cases) > 1)
        for (step, error), cases in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='run_gpu.sh', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--dry',
        action='store_true',
        help='only show that every step runs: tiny sizes on a CPU, in '
        "Triton's interpreter; the figures mean nothing",
    )
    dry, plan = parser.parse_args().dry, PLAN
    if dry:
        # A CPU may be busy, and takes longest to import.
        plan = [part._replace(seconds=max(60, part.seconds)) for part in PLAN]
        os.environ.update(TRITON_INTERPRET='1', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    else:
        check_gpu()
    # So that its step is ended, too, when this process is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(os.environ.get('OUT', f'{DEFAULT_OUT}/gpu'))
    folder.mkdir(parents=True, exist_ok=True)
    run_plan(plan, folder, dry)


def check_gpu() -> None:
    """Exit where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            f'error: PyTorch {torch.__version__} sees no GPU; PYTHON= names '
            'another Python, --dry does without'
        )


if __name__ == '__main__':
    main()
