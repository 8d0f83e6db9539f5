"""Time and memory of the attention against resolution, of stage 1."""

import argparse
import math
from typing import Dict, List, Optional, Sequence, Tuple

from measure import recorded
from op_costs import measure
from problems import CHANNELS, MODES, Problem, errors, wrong
from report import table, with_spread

from biformer_mm.ops.region import auto_num_regions

SIZES = (224, 384, 512, 768, 1024, 1536, 2048)
LARGE = 512
STRIDE = 4  # of stage 1
FIXED_REGIONS = 8
KINDS = ('fixed S', 'auto S', 'full')


def growth_problem(kind: str, pixels: int, arch: str, batch: int) -> Problem:
    """Stage 1 of a square image."""
    side, channels = -(-pixels // STRIDE), CHANNELS[arch][0]
    if kind == 'full':
        # As one region that is routed to itself: heads as in the others.
        return Problem(batch, side, side, channels, 1, 1)
    num_regions = FIXED_REGIONS
    if kind == 'auto S':
        num_regions = auto_num_regions(side, side, channels, topk=1)
    return Problem(batch, side, side, channels, num_regions, 1)


def slope(tokens: Sequence[int], values: Sequence[float]) -> Optional[float]:
    """Exponent of the power law through the points, by least squares."""
    if len(tokens) < 2 or min(values) <= 0:
        return None
    x, y = ([math.log(v) for v in values_] for values_ in (tokens, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def measure_growth(
    sizes: Sequence[int], backend: str, arch: str, batch: int, args: argparse.Namespace
) -> List[Dict]:
    """Time and memory of each kind of attention, mode and size.

    Args:
        sizes: Sides of the images, in pixels, ascending.
        backend: Of the op.
        arch: A key of ``problems.CHANNELS``.
        batch: Images.
        args: ``device``, ``dtype``, ``repeats``, and ``limit``, the seconds a
            call may take; a size that would take longer, by the square of the
            tokens, is left out.
    """
    rows = []
    for kind in KINDS:
        for mode in MODES:
            last: Optional[Tuple[int, float]] = None  # tokens, seconds
            for pixels in sizes:
                problem = growth_problem(kind, pixels, arch, batch)
                tokens = problem.height * problem.width
                row = dict(
                    kind=kind,
                    mode=mode,
                    pixels=pixels,
                    tokens=tokens,
                    num_regions=problem.num_regions,
                    error=None,
                    left_out=False,
                )
                rows.append(row)
                if last and last[1] * (tokens / last[0]) ** 2 > args.limit:
                    row['error'] = f'left out: over {args.limit:g} s a call'
                    row['left_out'] = True
                    continue
                if last is None:  # the reference is for small maps
                    with recorded(row):
                        row['errors'] = errors(problem, backend, args.device, args.dtype)
                        row['error'] = wrong(row['errors'], args.dtype)
                row.update(
                    measure(problem, {backend: row}, mode, args, routed=True).get(backend, {})
                )
                if not row['error']:
                    last = tokens, row['seconds']['median']
    return rows


def all_slopes(rows: List[Dict]) -> List[Dict]:
    return [
        growth_slope(rows, kind, mode, quantity)
        for kind in KINDS
        for mode in MODES
        for quantity in ('seconds', 'peak_memory')
    ]


def growth_slope(rows: List[Dict], kind: str, mode: str, quantity: str) -> Dict:
    """Return the slope over all sizes, and over the large ones, where the law shows.

    Calls cost little there, and S is rounded several times.
    """
    points = [
        (row['tokens'], value_of(row, quantity))
        for row in rows
        if (row['kind'], row['mode'], row['error']) == (kind, mode, None)
    ]
    large = [point for point in points if point[0] >= (LARGE // STRIDE) ** 2]
    return dict(
        kind=kind,
        mode=mode,
        quantity=quantity,
        points=len(points),
        slope=slope(*zip(*points)) if points else None,
        slope_of_large=slope(*zip(*large)) if large else None,
    )


def value_of(row: Dict, quantity: str) -> float:
    value = row[quantity]
    return value['median'] if isinstance(value, dict) else value


def growth_table(rows: List[Dict]) -> str:
    lines = []
    for row in rows:
        name = f'{row["kind"]}, {row["mode"]}, {row["pixels"]}'
        about = [name, row['tokens'], row['num_regions']]
        lines.append(
            about
            + (
                [row['error'].replace('|', '/'), '-']
                if row['error']
                else [with_spread(row['seconds'], 1e3), f'{row["peak_memory"] / 1e6:.1f}']
            )
        )
    return table(['attention', 'tokens', 'S', 'ms (range)', 'peak memory, MB'], lines)


def slopes_table(slopes: List[Dict]) -> str:
    return table(
        ['log-log slope in tokens', 'all sizes', f'from {LARGE}', 'sizes'],
        [
            [
                f'{row["kind"]}, {row["mode"]}, {row["quantity"]}',
                *(
                    '-' if row[key] is None else f'{row[key]:.2f}'
                    for key in ('slope', 'slope_of_large')
                ),
                row['points'],
            ]
            for row in slopes
        ],
    )
