"""Time and memory of BiFormer beside other backbones.

    python benchmarks/bench_backbone.py --preset detection
    python benchmarks/bench_backbone.py --preset classification --batch 64
    python benchmarks/bench_backbone.py --preset attention
    python benchmarks/bench_backbone.py --arch tiny small \
        --others mmdet:SwinTransformer mmdet:ResNet,depth=50

Each model lives in a process of its own, which gives its peak memory, and the
processes take turns (A B A B ...) so that a drift of the machine's speed
reaches all alike: one computes while the others sleep. What a model does:

- detection: the maps of all four stages, each after a norm;
- classification: the last map, normed, its mean and 1000 logits;
- attention: the same, for each attention of the paper's table 5 in Swin-T's layout.

A training step is forward and backward with a given gradient, no optimiser.
Stochastic depth is off in all models.
"""

import argparse
import multiprocessing
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Dict, List, Optional, Set

import torch
from measure import DTYPES, Timer, memory_in_use, peak_memory, reset_peak_memory, spread
from networks import build, make_step
from report import DEFAULT_OUT, environment, parse_size, table, with_spread, write

from biformer_mm.models.layers import ATTENTIONS

PRESETS = dict(
    detection=dict(arch=['small'], size='800x1333', batch=1, num_regions=16, threads=2),
    classification=dict(arch=['stl'], size='224x224', batch=8, num_regions=7, threads=2),
    attention=dict(
        arch=['stl'], attention=list(ATTENTIONS), size='224x224', batch=2, num_regions=7, threads=2
    ),
)
LIBRARIES = dict(biformer='biformer_mm.models', mmdet='mmdet.models', timm='timm')
MODES = dict(inference='forward', training='forward + backward')


def work(pipe, spec: str, mode: str, libraries: Set[str], args: argparse.Namespace) -> None:
    """A model's process: one reading each time it is asked, then its peak."""
    try:
        if args.threads:
            torch.set_num_threads(args.threads)
        for library in sorted(libraries):  # the same memory in all processes
            import_module(library)
        torch.manual_seed(0)
        model = build(spec, args.preset, args.size)
        parameters = sum(x.numel() for x in model.parameters())
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        model = model.to(args.device, memory_format=layout)
        images = torch.randn(args.batch, 3, *args.size, device=args.device)
        images = images.contiguous(memory_format=layout)
        step = make_step(model, mode, images, args.dtype, args.compile)
        at_start = memory_in_use(args.device)
        timer = Timer(step, args.device, args.warmup)
        if args.device == 'cuda':  # what warming up took is not the model's
            reset_peak_memory(args.device)
        pipe.send(dict(parameters=parameters, memory_at_start=at_start))
        while pipe.recv():
            pipe.send(timer.read())
        pipe.send(peak_memory(args.device))
    except (Exception, SystemExit) as error:
        pipe.send(
            f'{type(error).__name__}: {str(error).splitlines()[0]}'
            if str(error)
            else type(error).__name__
        )


class Worker:
    """The parent's end of a model's process."""

    def __init__(self, spec: str, mode: str, libraries: Set[str], args: argparse.Namespace) -> None:
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=work, args=(theirs, spec, mode, libraries, args), daemon=True
        )
        self.process.start()
        theirs.close()
        self.row = dict(model=spec, mode=mode, error=None)
        self.times = []
        about = self._receive()
        if about:
            self.row.update(about)

    def _receive(self, request: Optional[bool] = None):
        """Return the process's answer; None, and an error in the row, if it has none."""
        try:
            if request is not None:
                self.pipe.send(request)
            answer = self.pipe.recv()
        except (EOFError, OSError):  # the latter: it was gone before
            self.process.join()
            answer = f'process ended with status {self.process.exitcode}'
        if isinstance(answer, str):
            self.row['error'] = answer
            return None
        return answer

    def read(self) -> None:
        if not self.row['error']:
            self.times.append(self._receive(True))

    def finish(self) -> Dict:
        if not self.row['error']:
            memory = self._receive(False)
        if not self.row['error']:
            self.row.update(seconds=spread(self.times), peak_memory=memory)
        self.pipe.close()
        self.process.join()
        return self.row


def compare(specs: List[str], mode: str, args: argparse.Namespace) -> List:
    """One row per model; the first model is the others' yardstick."""
    libraries = {LIBRARIES[spec.partition(':')[0]] for spec in specs}
    workers = [Worker(spec, mode, libraries, args) for spec in specs]
    for _ in range(args.repeats):
        for worker in workers:
            worker.read()
    rows = [worker.finish() for worker in workers]
    first = rows[0]
    for row in rows:
        if row['error'] or first['error']:
            continue
        row['images_per_second'] = args.batch / row['seconds']['median']
        ratios = [
            mine / yardstick
            for mine, yardstick in zip(row['seconds']['values'], first['seconds']['values'])
        ]
        # The extremes are of turns that were neighbours in time.
        row['time_ratio'] = dict(
            median=row['seconds']['median'] / first['seconds']['median'],
            min=min(ratios),
            max=max(ratios),
        )
        row['memory_ratio'] = row['peak_memory'] / first['peak_memory']
        above, least = (x['peak_memory'] - x['memory_at_start'] for x in (row, first))
        row['memory_ratio_above_start'] = above / max(least, 1)
    return rows


def as_table(rows: List[Dict], first: str) -> str:
    lines = []
    for row in rows:
        what = f'{row["model"]}, {MODES[row["mode"]]}'
        if row['error'] or 'time_ratio' not in row:
            why = row['error'] or 'the yardstick failed'
            lines.append([what, *['-'] * 6, why.replace('|', '/')])
            continue
        lines.append(
            [
                what,
                with_spread(row['seconds']),
                f'{row["images_per_second"]:.3g}',
                f'{row["peak_memory"] / 1e9:.2f}',
                f'{row["memory_at_start"] / 1e9:.2f}',
                with_spread(row['time_ratio']),
                f'{row["memory_ratio"]:.2f}',
                f'{row["memory_ratio_above_start"]:.2f}',
            ]
        )
    return table(
        [
            'model',
            'seconds per batch (range)',
            'images/s',
            'peak memory, GB',
            'of it at start',
            f'time / {first}',
            'peak memory ratio',
            'above start',
        ],
        lines,
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='detection',
        help='what a model computes, and defaults: '
        'detection is BiFormer-S, 1x3x800x1333, S=16; classification is '
        'BiFormer-STL, 8x3x224x224, S=7; attention is the same with 2 images and '
        'all other attentions; with 2 threads',
    )
    parser.add_argument('--arch', nargs='*', help="BiFormer's archs")
    parser.add_argument(
        '--attention',
        nargs='*',
        choices=ATTENTIONS,
        default=[],
        help='others in place of bi-level routing, in the arch stl',
    )
    parser.add_argument(
        '--others',
        nargs='+',
        help='LIBRARY:NAME[,KEY=VALUE...] of mmdet (class), timm (name) or '
        'biformer (arch); the first is the yardstick; default: Swin-T of '
        'mmdet, or of timm',
    )
    parser.add_argument('--size', help='HxW')
    parser.add_argument('--batch', type=int)
    parser.add_argument('--num-regions', help="S, or 'auto'")
    parser.add_argument('--backend', nargs='+', default=['auto'], help="of BiFormer's op")
    parser.add_argument('--dtype', choices=list(DTYPES)[1:], default='fp32')
    parser.add_argument(
        '--device', choices=('cpu', 'cuda'), default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    parser.add_argument('--mode', nargs='+', choices=MODES, default=list(MODES))
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--threads', type=int)
    parser.add_argument('--repeats', type=int, help='turns; default 3 on a CPU, 10 on a GPU')
    parser.add_argument('--warmup', type=int)
    parser.add_argument('--out', default=DEFAULT_OUT, help='folder')
    chosen = parser.parse_known_args()[0].preset
    parser.set_defaults(**PRESETS[chosen])
    args = parser.parse_args()
    args.size = parse_size(args.size)
    regions = str(args.num_regions)
    if regions != 'auto' and not (regions.isdigit() and int(regions)):
        raise SystemExit(f"error: --num-regions is at least 1, or 'auto'; got {regions!r}")
    args.repeats = args.repeats or (10 if args.device == 'cuda' else 3)
    return args


def model_specs(args: argparse.Namespace) -> List[str]:
    """All models, the yardstick first.

    Raises:
        SystemExit: No yardstick is installed, or a backend is unknown.
    """
    from biformer_mm.ops.dispatch import check_backend_name

    others = args.others
    if not others:
        found = [
            spec
            for spec in ('mmdet:SwinTransformer', 'timm:swin_tiny_patch4_window7_224')
            if find_spec(spec.partition(':')[0])
        ]
        if not found:
            raise SystemExit(
                'error: the yardstick, Swin-T, needs mmdet or timm; install one, or name --others'
            )
        others = found[:1]
    for spec in others:
        if spec.partition(':')[0] not in LIBRARIES:
            raise SystemExit(
                f'error: a model is biformer:ARCH, mmdet:CLASS or timm:NAME; got {spec!r}'
            )
    specs = list(others)
    for arch in args.arch:
        for backend in args.backend:
            try:
                check_backend_name(backend)
            except ValueError as error:
                raise SystemExit(f'error: {error}') from None
            specs.append(
                f'biformer:{arch},num_regions={args.num_regions}'
                + (f',attn_backend={backend}' * (backend != 'auto'))
            )
    return specs + [f'biformer:stl,attention={name}' for name in args.attention]


def main() -> None:
    args = parse_args()
    specs = model_specs(args)
    if args.threads:  # for the children, whatever the caller's shell says
        os.environ['OMP_NUM_THREADS'] = str(args.threads)
        os.environ['MKL_NUM_THREADS'] = str(args.threads)
    rows = []
    for mode in args.mode:
        rows += compare(specs, mode, args)
    settings = {
        key: getattr(args, key)
        for key in (
            'preset',
            'batch',
            'size',
            'dtype',
            'device',
            'repeats',
            'channels_last',
            'compile',
        )
    }
    about = f'{args.batch} x 3 x {args.size[0]} x {args.size[1]}, {args.dtype}'
    result = dict(
        benchmark='backbone',
        environment=environment(args.device, args.threads),
        settings=settings,
        yardstick=specs[0],
        rows=rows,
    )
    name = '_'.join(
        [
            'backbone',
            args.preset,
            *args.arch,
            'x'.join(map(str, (args.batch, *args.size))),
            args.dtype,
        ]
        + ['channels-last'] * args.channels_last
        + ['compile'] * args.compile
    )
    write(result, name, [about, as_table(rows, specs[0])], args.out)
    failed = [row for row in rows if row['error']]
    if failed:
        raise SystemExit(
            'error: '
            + '; '.join(f'{row["model"]}, {row["mode"]}: {row["error"]}' for row in failed)
        )


if __name__ == '__main__':
    main()
