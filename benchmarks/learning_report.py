"""What learning.py makes of its runs: the rates, the rows, the table."""

import math
import statistics
from typing import Dict, List, Sequence

from learning_runs import LAST, SIZE
from report import table, with_spread


def rates_to_try(rates: Sequence[float], losses: Dict[float, float]) -> List[float]:
    """Return those neighbours of the best rate that were not tried: it may be the last tried.

    Args:
        rates: To choose from, in order; the middle one is tried first.
        losses: By rate, of those that were tried. One that is not finite is the worst.
    """
    i = rates.index(_least(losses)) if losses else len(rates) // 2
    return [rate for rate in rates[max(0, i - 1) : i + 2] if rate not in losses]


def choose_rate(losses: Dict[float, float]) -> float:
    """Return the rate with the least loss; a loss that is not finite is none.

    Raises:
        ValueError: No loss is finite.
    """
    best = _least(losses)
    if not math.isfinite(losses[best]):
        raise ValueError(f'one rate must give a finite loss; got {losses}: try smaller --rates')
    return best


def _least(losses: Dict[float, float]) -> float:
    """The rate of the least loss; the smallest rate where none is finite."""
    finite = {rate: loss if math.isfinite(loss) else math.inf for rate, loss in losses.items()}
    return min(sorted(finite), key=lambda rate: finite[rate])


def summarize(row: Dict, runs: Sequence[Dict]) -> None:
    """Add to a network's row its runs, and what they have in common."""
    row['runs'] = list(runs)
    failed = [run['error'] for run in runs if 'error' in run]
    done = [run for run in runs if 'error' not in run]
    if failed:
        row['error'] = failed[0]
    if done:
        last = [run['accuracy'][-1][1] for run in done]
        row['accuracy'] = dict(mean=statistics.fmean(last), min=min(last), max=max(last))
        row['loss'] = statistics.fmean(run['loss'] for run in done)
        for key in ('steps', 'parameters', 'multiply_adds'):
            row[key] = done[0][key]


def as_table(rows: Sequence[Dict]) -> str:
    lines = []
    for row in rows:
        if 'accuracy' not in row:
            lines.append([row['name'], *['-'] * 7, str(row['error']).replace('|', '/')])
            continue
        accuracy, time, memory = row['accuracy'], '-', '-'
        if 'peak_memory' in row:
            memory = f'{row["peak_memory"] / 1e9:.2f}'
        if 'seconds' in row:
            time = with_spread(row['seconds'], 1e3)
            if 'time_ratio' in row:
                time += f'; {row["time_ratio"]:.2f}'
        lines.append(
            [
                row['name'],
                f'{row["parameters"] / 1e6:.1f}',
                f'{row["multiply_adds"] / 1e9:.3f}',
                memory,
                f'{row["rate"]:g}',
                row['steps'],
                f'{accuracy["mean"]:.1f} ({accuracy["min"]:.1f}-{accuracy["max"]:.1f})',
                f'{row["loss"]:.3f}',
                time if not row['error'] else str(row['error']).replace('|', '/'),
            ]
        )
    columns = ['network', 'parameters, M', 'multiply-adds, G', 'peak memory, GB', 'rate', 'steps']
    last = [f'loss, last {LAST} steps', f'ms per step (range), over {rows[0]["name"]}']
    return table([*columns, 'accuracy, % (seeds)', *last], lines)


def about(settings: Dict) -> str:
    """Data, budget and seeds in a sentence; the hardware is in the environment."""
    budget = f'{settings["steps"]} steps'
    if settings['seconds']:
        budget = f'as many steps as take {settings["seconds"]:g} s'
    rates = ', '.join(f'{rate:g}' for rate in settings['rates'])
    return (
        f'{settings["data"]}, {settings["train_pictures"]:,} training and '
        f'{settings["test_pictures"]:,} test pictures in {settings["classes"]} classes, resized '
        f'to {SIZE} x {SIZE}; {budget} of {settings["batch"]} pictures, {settings["dtype"]}; '
        f'seeds {", ".join(map(str, settings["seeds"]))}; rates {rates}.'
    )
