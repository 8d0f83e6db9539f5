"""Compare results of run_gpu.sh with the project's goals.

python benchmarks/goals.py FOLDER/results.json
"""

import argparse
import json
from pathlib import Path
from typing import Dict, List, NamedTuple

from report import table


class Goal(NamedTuple):
    """A bound on a figure of triton's rows.

    Attributes:
        text: What is asked.
        step: Whose rows they are.
        where: What the rows hold besides.
        figure: Key of the figure.
        most: The bound.
        speed: Whether the figure is a time whose inverse is asked for.
    """

    text: str
    step: str
    where: Dict
    figure: str
    most: float
    speed: bool = False

    def judge(self, results: Dict) -> List[str]:
        """A row of the table; the worst value decides."""
        values = [
            row[self.figure]
            for row in results.get(self.step, [])
            if self.figure in row
            and not row['error']
            and all(row[key] == value for key, value in self.where.items())
        ]
        if not values:
            return [self.text, '-', 'not measured']
        met = max(values) <= self.most
        ends = [1 / x if self.speed else x for x in (min(values), max(values))]
        found = ' to '.join(dict.fromkeys(f'{x:.2f}' for x in sorted(ends)))
        return [self.text, found, 'met' if met else 'missed']


def goals(dtype: str) -> List[Goal]:
    """All goals; times are those of ``dtype``."""
    both = dict(mode='forward+backward', dtype=dtype)
    found = [
        Goal(
            f'op at {size}, both passes: time / dense <= {most}',
            'op',
            dict(both, size=size),
            'time_over_dense',
            most,
        )
        for size, most in (('512', 1.0), ('800x1333', 1.5), ('224', 2.0))
    ]
    found.append(
        Goal(
            'op, both passes, bound by memory: time / floor <= 2',
            'op',
            dict(both, bound='memory'),
            'time_over_floor',
            2,
        )
    )
    for mode, least in (('inference', 1.15), ('training', 1.0)):
        for figure, name in (
            ('time_over_swin', 'Swin-T'),
            ('time_over_fused_swin', 'fused Swin-T'),
        ):
            found.append(
                Goal(
                    f'STL, 224, {mode}: images/s / {name} >= {least}',
                    'backbones',
                    dict(network='stl', model='triton', case=mode),
                    figure,
                    1 / least,
                    True,
                )
            )
    for case in ('inference in a graph', 'training'):
        found.append(
            Goal(
                f'S, 800x1333, {case}: time / Swin-T <= 1.4',
                'backbones',
                dict(network='small', model='triton', case=case),
                'time_over_swin',
                1.4,
            )
        )
    found.append(
        Goal(
            'S and STL, training: memory / gather <= 0.6',
            'backbones',
            dict(model='triton', mode='training'),
            'memory_over_gather',
            0.6,
        )
    )
    return found


def summarize(results: Dict, measured: bool = False) -> str:
    """The table of all goals, or of those that were measured."""
    rows = [goal.judge(results) for goal in goals(results['settings']['dtype'])]
    if measured:
        rows = [row for row in rows if row[2] != 'not measured']
    head = ['goal', 'measured (worst decides)', '']
    return table(head, rows) if rows else ''


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('results', type=Path, help='results.json')
    print(summarize(json.loads(parser.parse_args().results.read_text())))


if __name__ == '__main__':
    main()
