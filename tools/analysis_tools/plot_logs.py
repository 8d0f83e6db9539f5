"""Plot the curves of one or several trainings from MMEngine's logs.

Loss, learning rate, metrics and GPU memory over the iterations, restarts
joined: where a run was resumed, the later session's points replace the
earlier one's.
"""

import argparse
import math
import os.path as osp
import sys
from typing import Dict, List

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biformer_mm.analysis.logs import Curve, Run, read_run
from biformer_mm.analysis.plotting import STYLE, check_format, line, save
from biformer_mm.utils.cli import check_writable, make_parser, print_report, usage_errors
from biformer_mm.utils.errors import UsageError

# What to print for the library's arguments in errors.
OPTIONS = {
    'path must end': '--out must end',
    'choose another path': 'give --out another path',
    'work_dir of a training': '--work-dir of a training',
}
LABELS = {
    'lr': 'learning rate',
    'memory': 'peak GPU memory, MiB',
    'time': 'time per iteration, s',
    'data_time': 'time per iteration for data, s',
}


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/analysis_tools/plot_logs.py '
        'work_dirs/retinanet_biformer_demo --out curves.png  # after make demo',
    )
    parser.add_argument(
        'work_dirs',
        nargs='+',
        metavar='WORK_DIR',
        help='--work-dir of a training, or one of the folders in it that are named by a time',
    )
    parser.add_argument(
        '--out', required=True, metavar='FIG', help='figure to write, .png, .svg or .pdf'
    )
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='KEY',
        help='what to draw, by the names in the log, a panel for each; by '
        'default the loss, learning rates, headline metrics and memory',
    )
    parser.add_argument(
        '--smooth',
        type=int,
        default=1,
        metavar='N',
        help='mean of N neighbouring points of losses and the like, over the '
        'points themselves; N is odd, 1 by default',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with usage_errors('plot_logs.py', OPTIONS):
        check_format(args.out)
        check_writable('--out', args.out)
        if args.smooth < 1 or args.smooth % 2 == 0:
            raise UsageError(
                '--smooth must be an odd number of points, as '
                f'many on both sides; got {args.smooth}'
            )
        names = name_runs(args.work_dirs)
        runs = dict(zip(names, [read_run(x, warn) for x in args.work_dirs]))
        keys = args.keys or default_keys(list(runs.values()))
        check_keys(keys, runs)
        save(plot(runs, keys, args.smooth), args.out)
    lines = [describe(name, run) for name, run in runs.items()]
    lines.append(f'drawn: {", ".join(keys)}')
    others = sorted(set(logged(list(runs.values()))) - set(keys))
    if others:
        lines.append(f'not drawn, for --keys: {", ".join(others)}')
    if not args.keys and 'memory' not in keys:
        lines.append('no memory is in these logs: MMEngine logs only that of GPUs')
    print_report('\n'.join([*lines, args.out]))


def warn(text: str) -> None:
    print(f'plot_logs.py: warning: {text}', file=sys.stderr)


def name_runs(folders: List[str]) -> List[str]:
    """The folders' own names, or their paths if names repeat.

    Raises:
        UsageError: A folder is given twice.
    """
    paths = [osp.abspath(folder) for folder in folders]
    names = [osp.basename(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    if len(set(paths)) < len(paths):
        raise UsageError(f'each WORK_DIR is given once; got {" ".join(folders)}')
    return [osp.relpath(path, osp.commonpath(paths)) for path in paths]


def logged(runs: List[Run]) -> List[str]:
    """What is in the logs, in their order."""
    names = (name for run in runs for curves in (run.training, run.validation) for name in curves)
    return list(dict.fromkeys(names))


def default_keys(runs: List[Run]) -> List[str]:
    """The loss, learning rates, metrics and memory.

    A name that continues another one (coco/bbox_mAP_50) is a detail of it, and
    not among them.
    """
    training = list(dict.fromkeys(x for run in runs for x in run.training))
    validation = list(dict.fromkeys(x for run in runs for x in run.validation))
    losses = [name for name in training if 'loss' in name]
    rates = [name for name in training if name == 'lr' or name.endswith('.lr')]
    no_metrics = {'loss', 'time', 'data_time'}
    no_metrics.update(
        name for name in validation for other in validation if name.startswith(f'{other}_')
    )
    metrics = [name for name in validation if name not in no_metrics]
    memory = [name for name in training if name == 'memory']
    return [*(['loss'] if 'loss' in losses else losses), *rates, *metrics, *memory]


def check_keys(keys: List[str], runs: Dict[str, Run]) -> None:
    """Refuse what no run has logged.

    Raises:
        UsageError: There is such a key.
    """
    names = logged(list(runs.values()))
    for key in keys:
        if key not in names:
            raise UsageError(
                f'--keys: nothing is logged as {key}; the logs have {", ".join(names)}'
            )


def describe(name: str, run: Run) -> str:
    """In words, which sessions a run consists of."""
    parts = []
    for i, session in enumerate(run.sessions):
        last = max(max(curve) for curve in session.training.values())
        text = f'{session.name} to iteration {last}'
        if i > 0:
            text += (
                f', from {session.start} on'
                if session.start
                else ', from the start: what is before it is left out'
            )
        parts.append(text)
    return f'{name}: {"; ".join(parts)}'


def plot(runs: Dict[str, Run], keys: List[str], smooth: int) -> Figure:
    """A panel for each quantity, a line for each run."""
    columns = 2 if len(keys) == 4 else min(len(keys), 3)
    rows = math.ceil(len(keys) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(4.6 * columns, 6), 3.2 * rows + 0.8), layout='constrained')
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axis, key in zip(axes.flat, keys):
            draw_panel(axis, runs, key, smooth)
        for axis in axes.flat[len(keys) :]:
            axis.remove()
        title = [] if len(runs) > 1 else [*runs]
        if smooth > 1:
            title.append(f'means of {smooth} points (pale: as logged)')
        figure.suptitle(', '.join(title), fontsize=11)
        if len(runs) > 1:
            handles = [
                Axes.plot(axes[0, 0], [], [], label=name, **line(i))[0]
                for i, name in enumerate(runs)
            ]
            figure.legend(
                handles=handles,
                loc='outside lower center',
                ncols=max(1, min(len(runs), 110 // max(map(len, runs)))),
            )
    return figure


def draw_panel(axis: Axes, runs: Dict[str, Run], key: str, smooth: int) -> None:
    """Draw a quantity of all runs: training as lines, validation with markers."""
    for i, run in enumerate(runs.values()):
        look = line(i)
        marker = look.pop('marker')
        if key in run.training:
            x, y = points(run.training[key])
            alone = dict(marker=marker) if len(x) == 1 else {}
            if smooth > 1 and not is_exact(key):
                axis.plot(x, y, color=look['color'], alpha=0.25, linewidth=1)
                y = running_mean(y, smooth)
            axis.plot(x, y, **look, **alone)
        if key in run.validation:
            axis.plot(*points(run.validation[key]), marker=marker, **look)
    axis.set_title(LABELS.get(key, key))
    axis.set_xlabel('iteration')
    axis.tick_params(labelbottom=True)  # in all rows, though they share x
    values = [value for run in runs.values() for value in run.training.get(key, {}).values()]
    if is_exact(key) and min(values, default=0) >= 0:
        axis.set_ylim(bottom=0)
    if key.endswith('lr'):
        axis.yaxis.set_major_formatter('{x:g}')


def points(curve: Curve) -> tuple:
    """Iterations, ascending, and values."""
    return tuple(zip(*sorted(curve.items())))


def is_exact(key: str) -> bool:
    """Whether a quantity has no noise that could be smoothed away."""
    return key == 'memory' or key.endswith('lr')


def running_mean(values: List[float], size: int) -> List[float]:
    """Return the mean of ``size`` points around each.

    Towards the ends the mean is of fewer points, as many on both sides. A nan stays, and does not
    count for its neighbours.
    """
    means = []
    for i, value in enumerate(values):
        reach = min(size // 2, i, len(values) - 1 - i)
        near = [x for x in values[i - reach : i + reach + 1] if math.isfinite(x)]
        means.append(sum(near) / len(near) if math.isfinite(value) else math.nan)
    return means


if __name__ == '__main__':
    main()
