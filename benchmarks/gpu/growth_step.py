"""Time and memory of the attention against resolution, as growth.py has it."""

import argparse
from typing import Dict, List

import growth

from gpu.step import Step


def run(step: Step) -> None:
    sizes = step.sizes
    pixels, backend = sizes.growth
    args = argparse.Namespace(
        device=sizes.device, dtype=sizes.dtype, repeats=sizes.repeats, limit=1.0
    )
    step.add(*growth.measure_growth(pixels, backend, 'small', 1, args))


def lines(rows: List[Dict]) -> List[str]:
    slopes = growth.all_slopes(rows)
    return [growth.slopes_table(slopes)]
