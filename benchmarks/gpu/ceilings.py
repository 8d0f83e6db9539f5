"""What the machine can do: bandwidth of a copy, rate of a matrix product."""

import subprocess
from functools import partial
from typing import Dict, List, Optional, Tuple

import torch
from measure import DTYPES, Timer, spread
from problems import Problem, cost

from gpu.step import Step

QUERY = 'driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw'


def run(step: Step) -> None:
    sizes = step.sizes
    with step.case(name='clocks and driver') as row:
        row['value'] = clocks()
    with step.case(name='copy', unit='B/s') as row:
        source = torch.empty(sizes.copy, dtype=torch.uint8, device=sizes.device)
        target = torch.empty_like(source.random_())
        seconds = best(step, partial(target.copy_, source))
        row['value'] = 2 * sizes.copy / seconds  # read and written
        del source, target
    for dtype in sizes.dtypes:
        with step.case(name=f'product, {dtype}', unit='FLOP/s') as row:
            a, b = (
                torch.randn(sizes.product, sizes.product, device=sizes.device, dtype=DTYPES[dtype])
                for _ in range(2)
            )
            row['value'] = 2 * sizes.product**3 / best(step, lambda: a @ b)
    with step.case(name='clocks after the product') as row:
        row['value'] = clocks()


def best(step: Step, work) -> float:
    """Median of the seconds that some work takes."""
    timer = Timer(work, step.sizes.device, seconds=step.sizes.seconds)
    return spread([timer.read() for _ in range(step.sizes.repeats)])['median']


def clocks() -> Optional[str]:
    """What nvidia-smi reads off the GPU; None where there is none."""
    try:
        return subprocess.run(
            ['nvidia-smi', f'--query-gpu={QUERY}', '--format=csv,noheader'],
            check=True,
            text=True,
            timeout=5,
            stdout=subprocess.PIPE,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def floor(rows: List[Dict], problem: Problem, mode: str, dtype: str) -> Optional[Tuple[float, str]]:
    """Least seconds of the op, and whether memory or compute asks for them.

    The larger of bytes over the copy's bandwidth and FLOPs over the product's
    rate, see ``problems.cost``; forward and backward are added up. None where
    these rates were not measured.
    """
    rates = {row['name']: row.get('value') for row in rows}
    bandwidth, rate = rates.get('copy'), rates.get(f'product, {dtype}')
    if not (bandwidth and rate):
        return None
    times = [(moved / bandwidth, flops / rate) for moved, flops in cost(problem, mode, dtype)]
    of_memory, of_compute = map(sum, zip(*times))
    return (sum(map(max, times)), 'memory' if of_memory > of_compute else 'compute')


def lines(rows: List[Dict]) -> List[str]:
    """Each row's value."""
    found = []
    for row in rows:
        value = row.get('value')
        if isinstance(value, float):
            value = f'{value / 1e12:.3g} T{row["unit"]}'
        found.append(f'{row["name"]}: {value}')
    return found
