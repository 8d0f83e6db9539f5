"""Whether backends train alike: the demo's classifier, from several seeds.

    python benchmarks/drift.py --threads 1
    python benchmarks/drift.py --backend reference sdpa cpu --steps 2000

Every backend trains from the same seeds; runs of one seed start from the same
weights and see the same images in the same order. Rounding differs between
backends, and training makes more of it at every step, the sooner as a region
whose affinity nearly equals another's is chosen by one and not by the other:
weights drift apart. What is asked is whether that changes what a training
ends with. `nudged` tells how much drift needs no other backend: it is the
first one again, its initial weights moved by the last bit of fp32.

Compared are the loss, as the mean of the last 100 steps, and the accuracy on
1,000 held-out images. A backend is within where its mean over the seeds is no
farther from the first backend's than the spread of the first's seeds, the
largest minus the smallest. The exit status is 1 where one is not, `nudged`
apart. If rounding made each training a draw of its own, an equal backend would
be within in six of seven such comparisons, with three seeds.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from report import DEFAULT_OUT, environment, table, write
from torch import Tensor, nn

from biformer_mm.datasets import make_shapes
from biformer_mm.ops.dispatch import check_backend_name
from biformer_mm.utils import register_all_modules

CONFIG = Path(__file__).resolve().parents[1] / 'configs/biformer_demo.py'
NUDGED = 'nudged'
TRAIN_IMAGES, HELD_OUT_IMAGES = 1600, 1000
LAST = 100  # steps whose mean is the final loss
POINTS = 50  # of a loss curve
METRICS = dict(loss=3, accuracy=1)  # with decimals


class Record(Hook):
    """Keeps the loss of each step, and the accuracy of the evaluation."""

    def __init__(self) -> None:
        self.losses: List[float] = []
        self.accuracy = float('nan')

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[Any] = None,
        outputs: Optional[Dict] = None,
    ) -> None:
        self.losses.append(float(outputs['loss'].detach()))

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict] = None) -> None:
        self.accuracy = metrics['accuracy/top1']


def make_config(backend: str, seed: int, steps: int, data: Path) -> Config:
    """The demo's config, in steps, with its schedule drawn out to them."""
    cfg = Config.fromfile(str(CONFIG))
    cfg.model.backbone.attn_backend = backend
    cfg.randomness = dict(seed=seed)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=steps, val_interval=steps)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=min(50, steps)),
        dict(type='CosineAnnealingLR', T_max=steps, by_epoch=False, eta_min_ratio=0.01),
    ]
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(data)
        loader.update(num_workers=0, persistent_workers=False)
    for part in ('dataloader', 'evaluator', 'cfg'):
        cfg.pop(f'test_{part}')
    # Each step draws from a seed of its own, whatever the steps before drew.
    cfg.custom_hooks = [dict(type='ResumableSeedHook')]
    cfg.default_hooks.checkpoint = None
    cfg.visualizer = None
    cfg.log_level = 'ERROR'
    return cfg


def train(backend: str, nudged: bool, seed: int, steps: int, data: Path) -> Tuple[Dict, Tensor]:
    """One run: what it ended with, and its weights, flat."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = make_config(backend, seed, steps, data)
        cfg.work_dir = folder
        cfg.experiment_name = Path(folder).name
        runner = Runner.from_cfg(cfg)
        if nudged:
            runner.register_hook(Nudge())
        record = Record()
        runner.register_hook(record)
        runner.train()
    weights = flat(runner.model).cpu()
    row = dict(
        seed=seed,
        loss=statistics.fmean(record.losses[-LAST:]),
        accuracy=record.accuracy,
        first_loss=record.losses[0],
        curve=smooth(record.losses, POINTS),
    )
    return row, weights


class Nudge(Hook):
    """Moves the initial weights by the last bit of fp32."""

    def before_train(self, runner: Runner) -> None:
        with torch.no_grad():
            for weight in runner.model.parameters():
                weight.mul_(1 + torch.finfo(torch.float32).eps)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([x.detach().flatten() for x in model.parameters()])


def smooth(losses: Sequence[float], points: int) -> List[float]:
    """Means of as many equal parts, or the losses where they are fewer."""
    points = min(points, len(losses))
    edges = [len(losses) * i // points for i in range(points + 1)]
    return [statistics.fmean(losses[a:b]) for a, b in zip(edges, edges[1:])]


def compare(rows: List[Dict]) -> List[Dict]:
    """Hold every backend against the first.

    Args:
        rows: Runs, with the keys ``backend``, ``seed`` and those of METRICS;
            all backends with the same seeds.

    Returns:
        One conclusion per metric and backend but the first: the differences
        of runs with the same seed, that of the means over the seeds, the
        spread of the first backend's seeds, and whether the second exceeds
        the third not.
    """
    runs: Dict[str, Dict[int, Dict]] = {}
    for row in rows:
        runs.setdefault(row['backend'], {})[row['seed']] = row
    first, *others = runs
    conclusions = []
    for metric in METRICS:
        base = {seed: row[metric] for seed, row in runs[first].items()}
        spread = max(base.values()) - min(base.values())
        for name in others:
            differences = [runs[name][seed][metric] - value for seed, value in base.items()]
            of_means = abs(statistics.fmean(differences))
            conclusions.append(
                dict(
                    metric=metric,
                    backend=name,
                    differences=differences,
                    difference_of_means=of_means,
                    spread=spread,
                    within=of_means <= spread,
                )
            )
    return conclusions


def runs_table(rows: List[Dict]) -> str:
    return table(
        ['backend, seed', 'loss, last 100 steps', 'held-out accuracy, %', 'distance of weights'],
        [
            [
                f'{row["backend"]}, {row["seed"]}',
                f'{row["loss"]:.4f}',
                f'{row["accuracy"]:.1f}',
                f'{row["weights_distance"]:.2g}',
            ]
            for row in rows
        ],
    )


def conclusions_table(conclusions: List[Dict]) -> str:
    lines = []
    for one in conclusions:
        digits = METRICS[one['metric']] + 1
        lines.append(
            [
                f'{one["backend"]}, {one["metric"]}',
                ', '.join(f'{x:+.{digits}f}' for x in one['differences']),
                f'{one["difference_of_means"]:.{digits}f}',
                f'{one["spread"]:.{digits}f}',
                'yes' if one['within'] else 'NO',
            ]
        )
    return table(
        ['backend', 'difference, by seed', 'of the means', "spread of the first's seeds", 'within'],
        lines,
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--backend',
        nargs='+',
        default=['reference', 'sdpa', 'cpu', NUDGED],
        help='the first is what the others are held against',
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--threads', type=int, help='of a CPU')
    parser.add_argument('--out', default=DEFAULT_OUT)
    args = parser.parse_args()
    if len(args.backend) < 2 or args.backend[0] == NUDGED:
        parser.error(f'--backend takes a backend and what is held against it; got {args.backend}')
    if len(set(args.seeds)) < 2:
        parser.error(f'--seeds: a spread takes two seeds or more; got {args.seeds}')
    if args.steps < 1:
        parser.error(f'--steps must be 1 or more; got {args.steps}')
    for name in args.backend:
        try:
            check_backend_name('auto' if name == NUDGED else name)
        except ValueError as error:
            parser.error(f'--backend: {error}')
    return args


def main() -> None:
    args = parse_args()
    register_all_modules()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows, firsts = [], {}
    with tempfile.TemporaryDirectory() as folder:
        data = make_shapes(
            Path(folder) / 'shapes',
            'imagenet',
            num_train=TRAIN_IMAGES,
            num_val=HELD_OUT_IMAGES,
            image_size=64,
        )
        for seed in args.seeds:
            for name in args.backend:
                nudged = name == NUDGED
                row, weights = train(
                    args.backend[0] if nudged else name, nudged, seed, args.steps, data
                )
                first = firsts.setdefault(seed, weights)
                row['weights_distance'] = float((weights - first).norm() / first.norm())
                rows.append(dict(backend=name, **row))
                print(
                    f'{name}, seed {seed}: loss {row["loss"]:.4f}, accuracy {row["accuracy"]:.1f}',
                    flush=True,
                )
    conclusions = compare(rows)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    result = dict(
        benchmark='drift',
        environment=environment(device, torch.get_num_threads()),
        settings=dict(
            config=CONFIG.name,
            steps=args.steps,
            seeds=args.seeds,
            train_images=TRAIN_IMAGES,
            held_out_images=HELD_OUT_IMAGES,
            dtype='fp32',
        ),
        rows=rows,
        conclusions=conclusions,
    )
    write(
        result,
        f'drift_classification_{args.steps}_steps',
        [runs_table(rows), conclusions_table(conclusions)],
        args.out,
    )
    if not all(x['within'] for x in conclusions if x['backend'] != NUDGED):
        raise SystemExit(1)


if __name__ == '__main__':
    main()
