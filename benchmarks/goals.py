"""Compare results measured on a GPU with the project's goals.

    python benchmarks/goals.py benchmarks/results
"""
import argparse
import json
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from report import table

# Names that results of the two networks, as run_gpu.sh measures them, have.
STL, SMALL = 'biformer:stl,', 'biformer:small,'
GATHER = 'sdpa'


def load(folder: Path) -> Dict[str, List[Dict]]:
    """Results measured on each GPU."""
    results: Dict[str, List[Dict]] = {}
    for path in sorted(folder.rglob('*.json')):
        result = json.loads(path.read_text())
        gpu = result['environment']['gpu']
        if gpu:
            results.setdefault(gpu, []).append(result)
    return results


def op_ratios(results: List[Dict], over: str) -> Iterator[float]:
    """Seconds of ``over`` per second of triton, bf16 forward and backward.

    Stage 4 gathers nothing, so it says nothing of the gather.
    """
    for result in results:
        if result['benchmark'] != 'attention':
            continue
        if result['settings']['dtype'] != 'bf16':
            continue
        rows = {
            (row['stage'], row['backend']): row['forward+backward']
            for row in result['rows'] if not row['error']
        }
        for stage in (1, 2, 3):
            if (stage, 'triton') in rows and (stage, over) in rows:
                yield (rows[stage, over]['seconds']['median'] /
                       rows[stage, 'triton']['seconds']['median'])


def backbone_rows(results: List[Dict], model: str,
                  backend: str) -> Iterator[Tuple[str, Dict]]:
    """Rows of a model that ran without error, by mode."""
    for result in results:
        if result['benchmark'] != 'backbone':
            continue
        for row in result['rows']:
            if (row['model'].startswith(model) and not row['error']
                    and row['model'].endswith(f'attn_backend={backend}')):
                yield row['mode'], row


def memory_ratios(results: List[Dict], model: str) -> Iterator[float]:
    """Peak memory of training over that of the gather backend."""
    fused, gather = ([
        row['peak_memory']
        for mode, row in backbone_rows(results, model, backend)
        if mode == 'training'
    ] for backend in ('triton', GATHER))
    yield from (a / b for a, b in zip(fused, gather))


def judge(goal: str,
          values: List[float],
          at_least: Optional[float] = None,
          at_most: Optional[float] = None) -> List[str]:
    """A row of the table; the worst value decides."""
    if not values:
        return [goal, '-', 'not measured']
    met = (
        min(values) >= at_least
        if at_least is not None else max(values) <= at_most)
    found = f'{min(values):.2f}'
    if len(values) > 1:
        found += f' to {max(values):.2f}'
    return [goal, found, 'met' if met else 'missed']


def summarize(results: List[Dict]) -> str:
    """The table of all goals."""

    def time_ratios(model: str) -> List[float]:
        return [
            row['time_ratio']['median']
            for _, row in backbone_rows(results, model, 'triton')
            if 'time_ratio' in row
        ]

    rows = [
        judge(
            'op, bf16, forward+backward: speed over gather >= 5',
            list(op_ratios(results, GATHER)),
            at_least=5),
        judge(
            'the same: time over dense attention <= 2',
            [1 / x for x in op_ratios(results, 'dense')],
            at_most=2),
        judge(
            'BiFormer-STL, 224: images/s over Swin-T >= 1',
            [1 / x for x in time_ratios(STL)],
            at_least=1),
        judge(
            'BiFormer-S, 800x1333: time over Swin-T <= 1.4',
            time_ratios(SMALL),
            at_most=1.4),
        judge(
            'BiFormer-S and -STL: training memory over gather <= 0.6',
            [*memory_ratios(results, SMALL), *memory_ratios(results, STL)],
            at_most=0.6)
    ]
    return table(['goal', 'measured (worst decides)', ''], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path, help='folder')
    results = load(parser.parse_args().results)
    if not results:
        print('No result was measured on a GPU.')
    for gpu, of_gpu in results.items():
        print(f'{gpu}\n\n{summarize(of_gpu)}')


if __name__ == '__main__':
    main()
