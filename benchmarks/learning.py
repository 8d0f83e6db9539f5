"""How networks learn on real pictures, from one recipe and under one budget.

    python benchmarks/learning.py --study networks --data data/cifar10
    python benchmarks/learning.py --study attentions --preset gpu --steps 1500
    python benchmarks/learning.py --study backends --steps 300 --only 'reference, fp32'

A study names networks, see learning_studies.py; examples/cifar10 has their configs. Each is
trained from several seeds, every time in a process of its own. Networks of one seed see the same
pictures in the same order. The first is what the others' time is held against. The studies of
networks and attentions choose a rate for each network, by the training loss with which the first
seed ends: from the middle of --rates on, until both neighbours of the best are worse.

A finished run is kept in --work-dir, and trained again only if its config, seed or budget has
changed. The time and memory of a step are measured at the end of a call, on one batch in memory,
times in turns, whatever else the machine did while it trained; the second at which an accuracy is
reached is that time by the step. Leave the machine to it, or leave it out: --no-timing.
"""

import argparse
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
from learning_report import about, as_table, choose_rate, rates_to_try, summarize
from learning_runs import SIZE, Run, in_process, settings_of, step_memory, time_steps, train
from learning_studies import STUDIES, networks_of
from measure import recorded
from report import DEFAULT_OUT, environment, write

from biformer_mm.utils.atomic_file import whole_file

# For two cores, some 20 minutes a network, and as much again for its rate. For a GPU of the H200
# class with 16 cores beside it, 8 minutes for the six networks: an estimate, which no GPU has
# checked.
PRESETS: Dict[str, Dict] = dict(
    cpu=dict(seeds=[0, 1], batch=32, dtype='fp32', jobs=2, threads=1, workers=0),
    gpu=dict(seeds=[0, 1, 2], batch=256, dtype='bf16', jobs=3, threads=2, workers=4),
)
BUDGETS: Dict[str, Dict] = dict(cpu=dict(steps=600), gpu=dict(seconds=12))
RATES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
RATE = 1e-4  # of the recipe, for studies that do not choose
CHOOSE_RATES = ('networks', 'attentions')
CIFAR = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
CIFAR_NAME = 'CIFAR-10, a part, re-encoded as JPEG by a third party'


def recall(path: Path, settings: Dict) -> Any:
    """Return what was stored with these settings, or None."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if found['settings'] != settings:
        print(f'{path}: the settings have changed, so this is run again', flush=True)
        return None
    return found['result']


def keep(path: Path, settings: Dict, result: Dict) -> None:
    with whole_file(path) as unfinished:
        Path(unfinished).write_text(json.dumps(dict(settings=settings, result=result)))


def run_once(path: Path, settings: Dict, function: Callable, *args: Any) -> Dict:
    """Call a function in a process and store its result, unless it is there already.

    Returns:
        The result, or a dict with an ``error``.
    """
    result = recall(path, settings)
    if result is None:
        row: Dict = {}
        with recorded(row):
            result = in_process(function, *args)
            keep(path, settings, result)
            print(f'{path}: done', flush=True)
        if row:
            return row
    return result


def train_all(runs: List[Tuple[str, Run]], folder: Path, args: argparse.Namespace) -> List[Dict]:
    """Train what is not stored yet, ``--jobs`` at once; results in the order of the runs."""
    paths = [folder / name / f'rate_{run.rate:g}' / f'seed_{run.seed}.json' for name, run in runs]
    settings = [settings_of(run) for _, run in runs]  # MMEngine reads configs in one thread
    with ThreadPoolExecutor(args.jobs) as pool:
        return list(
            pool.map(
                lambda path, known, run: run_once(path, known, train, run[1], args.threads),
                paths,
                settings,
                runs,
            )
        )


def measure_steps(runs: Dict[str, Run], args: argparse.Namespace) -> Dict[str, Dict]:
    """Seconds of a step of each network, or errors."""
    row: Dict = {}
    with recorded(row):
        return in_process(time_steps, runs, args.threads, args.repeats)
    return dict.fromkeys(runs, row)


def set_steps(
    runs: Dict[str, Run], rows: Dict[str, Dict], folder: Path, args: argparse.Namespace
) -> None:
    """Give each network as many steps as take ``--seconds``.

    Their time is stored, as a call that goes on where another stopped must train as many.
    """
    paths = {name: folder / name / 'step.json' for name in runs}
    # The time depends on neither.
    settings = {
        name: settings_of(run._replace(steps=1, rate=RATES[0])) for name, run in runs.items()
    }
    found = {name: recall(paths[name], settings[name]) for name in runs}
    missing = {name: runs[name] for name in runs if found[name] is None}
    if missing:
        found.update(measure_steps(missing, args))
    for name, times in found.items():
        if 'median' not in times:
            rows[name]['error'] = 'its time per step, which --seconds needs, has not been found'
            continue
        if name in missing:
            keep(paths[name], settings[name], times)
        runs[name] = runs[name]._replace(steps=max(1, int(args.seconds / times['median'])))


def find_rates(
    runs: Dict[str, Run], rows: Dict[str, Dict], folder: Path, args: argparse.Namespace
) -> None:
    """Train the first seed with one rate after another, and write the choice in the rows.

    A part of a training would be cheaper, but it misled: BiFormer-T's loss after 100 steps was
    least at 2e-3, with which a whole training collapses at step 180.
    """
    if len(args.rates) == 1:
        for row in rows.values():
            row['rate'] = args.rates[0]
        return
    losses: Dict[str, Dict] = {name: {} for name in runs}
    while True:
        trials = [
            (name, run._replace(seed=args.seeds[0], rate=rate))
            for name, run in runs.items()
            for rate in rates_to_try(args.rates, losses[name])
        ]
        if not trials:
            break
        for (name, run), result in zip(trials, train_all(trials, folder, args)):
            losses[name][run.rate] = result.get('loss', math.nan)
    for name, row in rows.items():
        row['rates'] = [dict(rate=x, loss=loss) for x, loss in sorted(losses[name].items())]
        with recorded(row):
            row['rate'] = choose_rate(losses[name])


def run_study(args: argparse.Namespace) -> List[Dict]:
    """Return a row per network."""
    folder = Path(args.work_dir) / args.study
    runs = make_runs(args)
    rows: Dict[str, Dict] = {name: dict(name=name, error=None) for name in runs}
    if args.seconds:
        set_steps(runs, rows, folder, args)
    find_rates(_without_errors(runs, rows), _without_errors(rows, rows), folder, args)
    for name, run in _without_errors(runs, rows).items():
        runs[name] = run._replace(rate=rows[name]['rate'])
    # One seed of all networks after another: what is there of an interrupted call compares.
    trainings = [
        (name, run._replace(seed=seed))
        for seed in args.seeds
        for name, run in _without_errors(runs, rows).items()
    ]
    results = train_all(trainings, folder, args)
    for name in _without_errors(runs, rows):
        summarize(rows[name], [x for (of, _), x in zip(trainings, results) if of == name])
    if args.timing:
        add_costs(_without_errors(runs, rows), rows, args)
    return list(rows.values())


def make_runs(args: argparse.Namespace) -> Dict[str, Run]:
    """Return a run per network, whose steps, rate and seed are still to be set."""
    return {
        name: Run(
            network=network,
            data=str(Path(args.data).resolve()),
            classes=len(args.classes),
            seed=0,
            rate=args.rates[0],
            steps=args.steps or 1,
            evaluations=args.evaluations,
            batch=args.batch,
            dtype=network.dtype or args.dtype,
            workers=args.workers,
            device=args.device,
        )
        for name, network in networks_of(args.study, args.device).items()
        if not args.only or name in args.only
    }


def _without_errors(of: Dict[str, Any], rows: Dict[str, Dict]) -> Dict[str, Any]:
    return {name: value for name, value in of.items() if not rows[name]['error']}


def add_costs(runs: Dict[str, Run], rows: Dict[str, Dict], args: argparse.Namespace) -> None:
    for name, times in measure_steps(runs, args).items():
        rows[name]['error'] = times.pop('error', None)
        if times:
            rows[name]['seconds'] = times
            with recorded(rows[name]):
                rows[name]['peak_memory'] = in_process(step_memory, runs[name], args.threads)
    first = next(iter(rows.values()))
    for row in rows.values():
        if 'seconds' in row and 'seconds' in first:
            row['time_ratio'] = row['seconds']['median'] / first['seconds']['median']


def class_folders(data: str, split: str) -> List[str]:
    """Return the names of the classes of a split.

    Raises:
        ValueError: There are fewer than two.
    """
    folder = Path(data) / split
    found = sorted(x.name for x in folder.iterdir() if x.is_dir()) if folder.is_dir() else []
    if len(found) < 2:
        raise ValueError(
            f'the folder must have train/CLASS and test/CLASS with pictures of two classes or '
            f'more; got {len(found)} in {folder}: see examples/cifar10/README.md'
        )
    return found


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument('--study', choices=STUDIES, default='networks')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='networks of the study')
    parser.add_argument('--data', default='data/cifar10', help='folder of train/ and test/')
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='gpu' if on_gpu else 'cpu',
        help=f'defaults of the next options: {PRESETS}, {BUDGETS}',
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument('--steps', type=int)
    budget.add_argument('--seconds', type=float, help='of each training, instead of --steps')
    parser.add_argument(
        '--evaluations', type=int, default=4, help='of each training, at equal distances'
    )
    parser.add_argument('--seeds', type=int, nargs='+')
    parser.add_argument('--batch', type=int)
    parser.add_argument('--dtype', choices=('fp32', 'bf16', 'fp16'), help='the last two: autocast')
    parser.add_argument('--jobs', type=int, help='trainings at once')
    parser.add_argument('--threads', type=int, help='of each')
    parser.add_argument('--workers', type=int, help='processes of each that load pictures')
    parser.add_argument(
        '--rates', type=float, nargs='+', help=f'to choose from; default {RATES}, or {RATE}'
    )
    parser.add_argument('--no-timing', dest='timing', action='store_false')
    parser.add_argument('--work-dir', default='work_dirs/learning', help='of finished runs')
    parser.add_argument('--out', default=DEFAULT_OUT, help='of the result')
    parser.set_defaults(**PRESETS[parser.parse_known_args()[0].preset])
    args = parser.parse_args()
    if args.steps is None and args.seconds is None:
        vars(args).update(BUDGETS[args.preset])
    args.device = 'cuda' if on_gpu else 'cpu'
    args.repeats = 10 if on_gpu else 3
    args.rates = sorted(set(args.rates or (RATES if args.study in CHOOSE_RATES else [RATE])))
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Refuse what could not be run, and set ``args.classes``.

    Raises:
        ValueError: With the rule, the value and what to do.
    """
    for key in ('steps', 'seconds', 'evaluations', 'batch', 'jobs', 'threads'):
        value = getattr(args, key)
        if value is not None and not value > 0:
            raise ValueError(f'--{key.replace("_", "-")} must be above 0; got {value}')
    if args.workers < 0 or min(args.seeds) < 0:
        raise ValueError(
            f'--workers and --seeds must be 0 or more; got {args.workers} and {args.seeds}'
        )
    if not all(0 < rate < math.inf for rate in args.rates):
        raise ValueError(f'--rates must be above 0; got {args.rates}')
    if len(args.rates) > 1 and args.study not in CHOOSE_RATES:
        raise ValueError(
            f'--study {args.study} compares networks at one rate; got --rates {args.rates}: '
            'give one of them'
        )
    if args.device == 'cpu' and (args.dtype != 'fp32' or args.preset == 'gpu'):
        raise ValueError(
            f'{args.dtype} and --preset gpu need a GPU, and none is visible; '
            'take --preset cpu --dtype fp32'
        )
    known = list(networks_of(args.study, args.device))
    unknown = [name for name in args.only or () if name not in known]
    if unknown:
        raise ValueError(f'--only takes names of {args.study}, {known}; got {unknown}')
    args.classes = class_folders(args.data, 'train')
    if class_folders(args.data, 'test') != args.classes:
        raise ValueError(
            f'train/ and test/ must have the same class folders; they differ in {args.data}: '
            'add or remove some'
        )


def main() -> None:
    args = parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)  # of the trainings' processes
    rows = run_study(args)
    count = {split: len(list(Path(args.data, split).glob('*/*'))) for split in ('train', 'test')}
    settings = dict(
        study=args.study,
        data=CIFAR_NAME if args.classes == CIFAR else Path(args.data).resolve().name,
        train_pictures=count['train'],
        test_pictures=count['test'],
        classes=len(args.classes),
        size=SIZE,
        steps=args.steps,
        seconds=args.seconds,
        seeds=args.seeds,
        batch=args.batch,
        dtype=args.dtype,
        rates=args.rates,
    )
    result = dict(
        benchmark='learning',
        environment=environment(args.device, args.threads),
        settings=settings,
        yardstick=rows[0]['name'],
        rows=rows,
    )
    budget = f'{args.seconds:g}_seconds' if args.seconds else f'{args.steps}_steps'
    name = f'learning_{args.study}_{budget}'
    write(result, name, [about(settings), as_table(rows)], args.out)
    failed = [f'{row["name"]}: {row["error"]}' for row in rows if row['error']]
    if failed:
        raise SystemExit('error: ' + '; '.join(failed))


if __name__ == '__main__':
    main()
