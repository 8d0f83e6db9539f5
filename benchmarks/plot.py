"""Pictures of results.

    python benchmarks/plot.py work_dirs/benchmarks/*/*.json

Beside each JSON file it writes NAME.png: growth of time and memory, both axes
logarithmic, bars of time and memory relative to the yardstick's, or losses and
accuracies of trainings.
"""

import argparse
import json
from pathlib import Path
from typing import Dict, List, Tuple

import matplotlib

matplotlib.use('Agg')  # no display
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

from biformer_mm.analysis.plotting import COLORS, MARKERS, STYLE, line  # noqa: E402


def hardware(result: Dict) -> str:
    about = result['environment']
    name = about['gpu'] or f'{about["cpu"]}, threads: {about["threads"]}'
    return f'{name}; PyTorch {about["torch"]}; {result["settings"]["dtype"]}'


def plot_growth(result: Dict) -> Figure:
    """Time (top) and memory (bottom) of both modes, with the slopes."""
    modes = list(dict.fromkeys(row['mode'] for row in result['rows']))
    figure, axes = plt.subplots(
        2, len(modes), figsize=(5 * len(modes), 8), sharex=True, squeeze=False
    )
    quantities = (('seconds', 'ms per call', 1e3), ('peak_memory', 'peak memory, MB', 1e-6))
    for row_of_axes, (quantity, label, factor) in zip(axes, quantities):
        for axis, mode in zip(row_of_axes, modes):
            _growth_panel(axis, result, mode, quantity, factor)
            axis.set_title(f'{mode}: {label}')
    for axis in axes[-1]:
        axis.set_xlabel('side of the image, pixels')
    settings = result['settings']
    figure.suptitle(
        f'Attention of stage 1, C={settings["channels"]}, '
        f'k={settings["topk"]}, batch {settings["batch"]}, routing included; '
        'slopes in tokens, from 512 pixels on\n'
        f'{hardware(result)}; backend {settings["backend"]}',
        fontsize=11,
    )
    figure.tight_layout()
    return figure


def _growth_panel(axis: Axes, result: Dict, mode: str, quantity: str, factor: float) -> None:
    kinds = list(dict.fromkeys(row['kind'] for row in result['rows']))
    slopes = {
        (row['kind'], row['mode'], row['quantity']): row['slope_of_large'] or row['slope']
        for row in result['slopes']
    }
    ticks = {}
    for kind, color, marker in zip(kinds, COLORS, MARKERS):
        points = []
        for row in result['rows']:
            if (row['kind'], row['mode']) == (kind, mode):
                ticks[row['tokens']] = row['pixels']
                if not row['error']:
                    points.append((row['tokens'], row[quantity]))
        if not points:
            continue
        tokens, values = zip(*points)
        middle, error = _with_error(values, factor)
        slope = slopes[kind, mode, quantity]
        label = kind if slope is None else f'{kind}: slope {slope:.2f}'
        if tokens[-1] < max(ticks):
            label += f' (to {ticks[tokens[-1]]} pixels)'
        axis.errorbar(tokens, middle, yerr=error, color=color, marker=marker, label=label)
    axis.set_xscale('log')
    axis.set_yscale('log')
    axis.set_xticks(list(ticks), [str(side) for side in ticks.values()])
    axis.minorticks_off()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.yaxis.set_major_formatter('{x:g}')
    corner = 'lower right' if quantity == 'seconds' else 'upper left'
    axis.legend(loc=corner, fontsize=9, handlelength=1.5)


def _with_error(values: List, factor: float) -> Tuple[List, List]:
    """Medians, and distances to minima and maxima (0 for plain numbers)."""
    spreads = [v if isinstance(v, dict) else dict(median=v, min=v, max=v) for v in values]
    middle = [v['median'] * factor for v in spreads]
    low = [max(0, v['median'] - v['min']) * factor for v in spreads]
    high = [max(0, v['max'] - v['median']) * factor for v in spreads]
    return middle, [low, high]


def plot_backbone(result: Dict) -> Figure:
    """Time and memory of each model relative to the yardstick's."""
    rows = [row for row in result['rows'] if 'time_ratio' in row]
    settings = result['settings']
    size = 'x'.join(map(str, settings['size']))
    return _bars(
        rows,
        {'time': lambda row: row['time_ratio'], 'peak memory': lambda row: row['memory_ratio']},
        group='mode',
        name='model',
        title=f'Relative to {result["yardstick"]}, batch {settings["batch"]} '
        f'at {size}\n{hardware(result)}',
    )


def plot_attention(result: Dict) -> Figure:
    """Time of each backend relative to dense attention's."""
    rows = [
        dict(row, stage=f'stage {row["stage"]}')
        for row in result['rows']
        if row['backend'] != 'dense'
        and all('time_over_dense' in row.get(mode, {}) for mode in ('forward', 'forward+backward'))
    ]
    settings = result['settings']
    return _bars(
        rows,
        {
            mode: lambda row, mode=mode: row[mode]['time_over_dense']
            for mode in ('forward', 'forward+backward')
        },
        group='stage',
        name='backend',
        title='Time over that of dense attention with as many query-key '
        f'pairs, {settings["size"]}\n{hardware(result)}',
    )


def _bars(rows: List[Dict], panels: Dict, group: str, name: str, title: str) -> Figure:
    """Horizontal bars, a panel for each ratio, a block for each group."""
    names = list(dict.fromkeys(row[name] for row in rows))
    groups = list(dict.fromkeys(row[group] for row in rows))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(11, 1.8 + 0.3 * (len(rows) + len(groups))),
        sharey=True,
        squeeze=False,
    )
    places, labels, place = [], [], 0.0
    for one in groups:
        for row in (x for x in rows if x[group] == one):
            places.append(place)
            labels.append(f'{row[name]}, {one}')
            place += 1
        place += 0.6
    ordered = sorted(rows, key=lambda row: groups.index(row[group]))
    for axis, (label, value) in zip(axes[0], panels.items()):
        middle, error = _with_error([value(row) for row in ordered], 1)
        axis.barh(
            places,
            middle,
            xerr=error,
            color=[COLORS[names.index(row[name]) % len(COLORS)] for row in ordered],
            error_kw=dict(ecolor='#333333', capsize=2, linewidth=1),
        )
        for y, x, more in zip(places, middle, error[1]):
            axis.annotate(
                f'{x:.2f}',
                (x + more, y),
                (4, 0),
                textcoords='offset points',
                va='center',
                fontsize=9,
                bbox=dict(facecolor='white', edgecolor='none', pad=0.5),
            )
        axis.axvline(1, color='#333333', linewidth=1, linestyle='--')
        axis.set_title(label)
        axis.grid(False, axis='y')
        axis.margins(x=0.15)
    axes[0][0].set_yticks(places, labels)
    axes[0][0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def plot_drift(result: Dict) -> Figure:
    """Loss of every run, a colour for each backend."""
    settings = result['settings']
    names = list(dict.fromkeys(row['backend'] for row in result['rows']))
    figure, axis = plt.subplots(figsize=(8, 5))
    for row in result['rows']:
        width = settings['steps'] / len(row['curve'])
        first = row['seed'] == settings['seeds'][0]
        axis.plot(
            [(i + 0.5) * width for i in range(len(row['curve']))],
            row['curve'],
            color=COLORS[names.index(row['backend'])],
            linewidth=1.2,
            label=row['backend'] if first else None,
        )
    axis.set_yscale('log')
    axis.set_xlabel('step')
    axis.set_title('training loss')
    axis.legend()
    seeds = ', '.join(map(str, settings['seeds']))
    figure.suptitle(f'{settings["config"]}, seeds {seeds}\n{hardware(result)}', fontsize=11)
    figure.tight_layout()
    return figure


def plot_learning(result: Dict) -> Figure:
    """Loss by step and accuracy by time: the mean of the seeds, and their spread."""
    rows = [row for row in result['rows'] if 'accuracy' in row]
    figure, (losses, accuracies) = plt.subplots(1, 2, figsize=(12, 5))
    runs = {row['name']: [run for run in row['runs'] if 'error' not in run] for row in rows}
    for i, row in enumerate(rows):
        curves = [run['curve'] for run in runs[row['name']]]
        width = row['steps'] / len(curves[0])
        _seeds(losses, [(j + 0.5) * width for j in range(len(curves[0]))], curves, i, row['name'])
    losses.set_xlabel('step')
    losses.set_title('training loss')
    losses.legend(fontsize=9)
    accuracies.set_title('accuracy on the test pictures, %')
    if all(len(run['accuracy']) == 1 for of_row in runs.values() for run in of_row):
        _last_accuracies(accuracies, runs)
    else:
        _accuracy_curves(accuracies, rows, runs)
    settings = result['settings']
    seeds = ', '.join(map(str, settings['seeds']))
    figure.suptitle(
        f'{settings["data"]}; batch {settings["batch"]}, seeds {seeds}\n{hardware(result)}',
        fontsize=11,
    )
    figure.tight_layout()
    return figure


def _accuracy_curves(axis: Axes, rows: List[Dict], runs: Dict[str, List[Dict]]) -> None:
    # Seconds where all networks have a time, else steps.
    timed = all('seconds' in row for row in rows)
    for i, row in enumerate(rows):
        accuracies = [run['accuracy'] for run in runs[row['name']]]
        per_step = row['seconds']['median'] if timed else 1
        times = [step * per_step for step, _ in accuracies[0]]
        _seeds(axis, times, [[value for _, value in x] for x in accuracies], i, row['name'])
    axis.set_xlabel('seconds of training steps' if timed else 'step')


def _last_accuracies(axis: Axes, runs: Dict[str, List[Dict]]) -> None:
    """Draw a line per network: a dot per seed, and a stroke from the first to the last."""
    for i, (name, of_network) in enumerate(runs.items()):
        values = [run['accuracy'][-1][1] for run in of_network]
        axis.plot(values, [name] * len(values), color=line(i)['color'], marker='o')
    axis.margins(y=0.5 / len(runs))
    axis.invert_yaxis()  # the first on top
    axis.set_xlabel('a dot per seed')


def _seeds(axis: Axes, x: List, values: List[List], i: int, name: str) -> None:
    """Draw the mean of the seeds' values as the i-th line, and shade their spread."""
    columns = list(zip(*values))
    style = line(i)
    style['marker'] = style['marker'] if len(x) < 10 else ''
    axis.plot(x, [sum(column) / len(column) for column in columns], label=name, **style)
    axis.fill_between(
        x, list(map(min, columns)), list(map(max, columns)), color=style['color'], alpha=0.2, lw=0
    )


PLOTS = dict(
    growth=plot_growth,
    backbone=plot_backbone,
    attention=plot_attention,
    drift=plot_drift,
    learning=plot_learning,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('results', nargs='+', type=Path, help='JSON files')
    parser.add_argument('--format', choices=('png', 'svg'), default='png')
    args = parser.parse_args()
    for path in args.results:
        try:
            result = json.loads(path.read_text())
            plot = PLOTS.get(result['benchmark'])
        except (OSError, ValueError, KeyError) as error:
            raise SystemExit(
                f'error: {path} is no result of a benchmark ({type(error).__name__})'
            ) from None
        if plot is None:
            print(f'{path} has a table only')
            continue
        with plt.rc_context(STYLE):
            figure = plot(result)
        target = path.with_suffix(f'.{args.format}')
        figure.savefig(target, dpi=150)
        plt.close(figure)
        print(target)


if __name__ == '__main__':
    main()
