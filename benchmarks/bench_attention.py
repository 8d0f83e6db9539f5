"""Time, peak memory and error of the attention op; needs only torch and einops.

    PYTHONPATH=. python benchmarks/bench_attention.py
    PYTHONPATH=. python benchmarks/bench_attention.py --size 512 --dtype bf16
    PYTHONPATH=. python benchmarks/bench_attention.py --growth

The problems are those of BiFormer's four stages, with the released weights'
padding: completed by tokens that are keys, but whose queries nobody wants. All
backends take turns (A B A B ...). Beside them run two yardsticks, PyTorch's
attention on inputs with as many query-key pairs: 'dense' on one sequence per
image, 'gathered' on the op's own shapes with keys and values already gathered.
Each backend is checked against the reference in fp64 first: the table has the
relative errors, and no time of a wrong answer.

Peak memory is what a call uses above its inputs. On a CPU it is the peak
resident memory of a process of its own, so that a few MB are noise.

With --growth: stage 1 (C=64, k=1), which has the most tokens, for squares of
224 to 2048 pixels, with regions fixed at S=8, S chosen by equation 9, and full
attention, routing included, projections not. What would take longer than
--limit seconds a call, by the square of the tokens, is left out and said so.
"""

import argparse
from typing import Dict, List, Sequence

import growth
import torch
from measure import DTYPES, recorded
from op_costs import measure
from problems import (
    CHANNELS,
    DENSE,
    GATHERED,
    MODES,
    Problem,
    errors,
    stage_problems,
    unsupported_reason,
    wrong,
)
from report import DEFAULT_OUT, environment, parse_size, table, with_spread, write

from biformer_mm.ops import available_backends
from biformer_mm.ops.dispatch import check_backend_name

# Size: regions per side as the paper has it, and batches on a CPU and a GPU.
SIZES = {'224': (7, 1, 128), '512': (8, 1, 16), '800x1333': (16, 1, 2)}


def bench(problem: Problem, backends: Sequence[str], args: argparse.Namespace) -> List[Dict]:
    """One row per backend and yardstick."""
    rows = {name: dict(backend=name, error=None) for name in (DENSE, GATHERED, *backends)}
    for name in backends:
        row = rows[name]
        reason = unsupported_reason(name, problem, args.device, args.dtype)
        if reason and args.asked:
            raise SystemExit(f'error: {reason}')
        if reason:
            row['unsupported'] = row['error'] = reason
            continue
        with recorded(row):
            row['errors'] = errors(problem, name, args.device, args.dtype)
            row['error'] = wrong(row['errors'], args.dtype)
    for mode in MODES:
        for name, result in measure(problem, rows, mode, args).items():
            rows[name][mode] = result
    for row in rows.values():
        for mode in MODES:
            if mode in row and mode in rows[DENSE]:
                row[mode]['time_over_dense'] = (
                    row[mode]['seconds']['median'] / rows[DENSE][mode]['seconds']['median']
                )
    return list(rows.values())


def stages_table(rows: List[Dict]) -> str:
    lines = []
    for row in rows:
        name = f'stage {row["stage"]}: {row["backend"]}'
        if 'unsupported' in row:
            continue
        if row['error']:
            lines.append([name, *['-'] * 5, row['error'].replace('|', '/')])
            continue
        cells = [name]
        for mode in MODES:
            cells.append(with_spread(row[mode]['seconds'], 1e3))
        ratio = row[MODES[1]].get('time_over_dense')
        cells.append(f'{ratio:.2f}' if ratio else '-')
        for mode in MODES:
            cells.append(f'{row[mode]["peak_memory"] / 1e6:.1f}')
        cells.append(' '.join(f'{x:.0e}' for x in row.get('errors', {}).values()))
        lines.append(cells)
    stages = table(
        [
            'problem',
            'forward, ms (range)',
            'forward+backward, ms (range)',
            'the latter / dense',
            'forward, MB',
            'forward+backward, MB',
            'errors of o, dq, dk, dv',
        ],
        lines,
    )
    reasons = dict.fromkeys(
        f'Not run: {row["unsupported"]}' for row in rows if 'unsupported' in row
    )
    return '\n\n'.join([stages, *reasons])


def bench_stages(args: argparse.Namespace) -> List[str]:
    """Measure and write each size; returns what went wrong."""
    failures = []
    for size in args.size:
        default = SIZES.get(size, (7, 1, 1))
        num_regions = args.num_regions or default[0]
        batch = args.batch or default[2 if args.device == 'cuda' else 1]
        problems = stage_problems(parse_size(size), num_regions, args.arch, batch)
        rows, lines = [], []
        for stage, problem in enumerate(problems, 1):
            lines.append(f'- stage {stage}: {problem.describe()}')
            for row in bench(problem, args.backend, args):
                rows.append(dict(stage=stage, **problem._asdict(), **row))
        result = dict(
            benchmark='attention',
            environment=environment(args.device),
            settings=dict(
                size=size,
                num_regions=num_regions,
                arch=args.arch,
                batch=batch,
                dtype=args.dtype,
                repeats=args.repeats,
            ),
            rows=rows,
        )
        write(
            result,
            f'attention_{args.arch}_{size}_{args.dtype}',
            ['\n'.join(lines), stages_table(rows)],
            args.out,
        )
        failures += [
            f'{size}, stage {row["stage"]}, {row["backend"]}: {row["error"]}'
            for row in rows
            if row['error'] and 'unsupported' not in row
        ]
    return failures


def bench_growth(args: argparse.Namespace) -> List[str]:
    """Measure and write time and memory against size; returns what failed."""
    backend = args.backend[0]
    rows = growth.measure_growth(
        list(map(int, args.size)), backend, args.arch, args.batch or 1, args
    )
    slopes = growth.all_slopes(rows)
    result = dict(
        benchmark='growth',
        environment=environment(args.device),
        settings=dict(
            channels=CHANNELS[args.arch][0],
            topk=1,
            batch=args.batch or 1,
            backend=backend,
            dtype=args.dtype,
            repeats=args.repeats,
            limit=args.limit,
        ),
        rows=rows,
        slopes=slopes,
    )
    name = f'growth_{args.arch}_{args.dtype}'
    write(
        result,
        name + f'_{backend}' * args.asked,
        [growth.growth_table(rows), growth.slopes_table(slopes)],
        args.out,
    )
    return [
        f'{row["kind"]}, {row["mode"]}, {row["pixels"]}: {row["error"]}'
        for row in rows
        if row['error'] and not row['left_out']
    ]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--growth', action='store_true', help='time and memory against resolution')
    parser.add_argument(
        '--size', nargs='+', help=f'HxW; default {" ".join(SIZES)}, or squares for --growth'
    )
    parser.add_argument('--num-regions', type=int, help='S')
    parser.add_argument('--arch', choices=CHANNELS, default='small')
    parser.add_argument('--batch', type=int)
    parser.add_argument('--backend', nargs='+', help="default: all of them, or 'auto' for --growth")
    parser.add_argument('--dtype', choices=DTYPES, default='fp32')
    parser.add_argument(
        '--device', choices=('cpu', 'cuda'), default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    parser.add_argument('--threads', type=int)
    parser.add_argument('--repeats', type=int, help='turns; default 3 on a CPU, 10 on a GPU')
    parser.add_argument('--limit', type=float, default=20, help='seconds a call, for --growth')
    parser.add_argument('--out', default=DEFAULT_OUT, help='folder')
    args = parser.parse_args()
    args.size = args.size or (list(map(str, growth.SIZES)) if args.growth else list(SIZES))
    for size in args.size:
        height, width = parse_size(size)
        if args.growth and not (height == width and size.isdigit()):
            raise SystemExit(f'error: --growth takes sides of squares, such as 512; got {size!r}')
    if args.growth and args.backend and len(args.backend) > 1:
        raise SystemExit(f'error: --growth takes one backend; got {" ".join(args.backend)}')
    args.asked = bool(args.backend)
    args.backend = args.backend or (['auto'] if args.growth else list(available_backends()))
    for name in args.backend:
        try:
            check_backend_name(name)
        except ValueError as error:
            raise SystemExit(f'error: {error}') from None
    args.repeats = args.repeats or (10 if args.device == 'cuda' else 3)
    return args


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    failures = bench_growth(args) if args.growth else bench_stages(args)
    if failures:
        raise SystemExit('error: ' + '; '.join(failures))


if __name__ == '__main__':
    main()
