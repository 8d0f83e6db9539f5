"""Time the attention op in every stage.

Replays of a CUDA graph over three inputs in turn are timed, and beside them eager calls.

A mode's rows are of triton, of sdpa (which gathers) and of dense attention
with as many query-key pairs.
"""

from typing import Dict, List, Optional, Tuple

from measure import RotatingTimer, time_rows
from problems import DENSE, MODES, Problem, make_step, prepare
from report import table

from gpu.ceilings import floor
from gpu.step import Step

BACKENDS = ('triton', 'sdpa', DENSE)
INPUTS = 3


def run(step: Step, *dtypes: str) -> None:
    for dtype in dtypes or [step.sizes.dtype]:
        for size, problems in step.sizes.stages.items():
            for stage, problem in enumerate(problems, 1):
                for mode in MODES:
                    about = dict(dtype=dtype, size=size, stage=stage, mode=mode)
                    step.add(*measure_mode(step, problem, about))


def measure_mode(step: Step, problem: Problem, about: Dict) -> List[Dict]:
    """A row per backend, with seconds in a graph and eager, and ratios."""
    device, mode, dtype = step.sizes.device, about['mode'], about['dtype']
    rows = {name: dict(about, backend=name, error=None) for name in BACKENDS}

    def make_timer(name: str, graph: bool) -> RotatingTimer:
        steps = [
            make_step(*prepare(problem, name, device, dtype, False, seed), mode)
            for seed in range(INPUTS)
        ]
        return RotatingTimer(steps, device, graph, step.sizes.seconds)

    for key, graph in (('eager_seconds', False), ('seconds', True)):
        times = time_rows(rows, lambda name: make_timer(name, graph), step.sizes.repeats)
        for name, seconds in times.items():
            rows[name][key] = seconds
    compare(rows, floor(step.results.rows('ceilings'), problem, mode, dtype))
    return list(rows.values())


def compare(rows: Dict[str, Dict], least: Optional[Tuple[float, str]]) -> None:
    """Add what triton's time is relative to.

    Args:
        rows: By backend.
        least: As ``ceilings.floor`` returns it.
    """
    times = {name: row['seconds']['median'] for name, row in rows.items() if 'seconds' in row}
    row, own = rows['triton'], times.get('triton')
    if own is None:
        return
    if 'sdpa' in times:
        row['speed_over_gather'] = times['sdpa'] / own
    if DENSE in times:
        row['time_over_dense'] = own / times[DENSE]
    if least:
        row['floor'], row['bound'] = least
        row['time_over_floor'] = own / least[0]


def lines(rows: List[Dict]) -> List[str]:
    """A table per dtype: microseconds and ratios of each stage."""
    columns = ['us', 'eager', 'x gather', '/dense', '/floor']
    head = ['forward', *columns, 'both: us', *columns[1:]]
    found: Dict[str, Dict[str, Dict[str, List[str]]]] = {}
    for row in rows:
        if row['backend'] == 'triton':
            stage = f'{row["size"]} stage {row["stage"]}'
            of_dtype = found.setdefault(row['dtype'], {})
            of_dtype.setdefault(stage, {})[row['mode']] = cells(row)
    return [
        table(
            [f'{dtype}: {head[0]}', *head[1:]],
            [
                [stage, *(x for mode in MODES for x in modes.get(mode, ['-'] * 5))]
                for stage, modes in stages.items()
            ],
        )
        for dtype, stages in found.items()
    ]


def cells(row: Dict) -> List[str]:
    times = [
        f'{row[key]["median"] * 1e6:.1f}' if key in row else '-'
        for key in ('seconds', 'eager_seconds')
    ]
    ratios = ('speed_over_gather', 'time_over_dense', 'time_over_floor')
    return times + [f'{row[x]:.2f}' if x in row else '-' for x in ratios]
