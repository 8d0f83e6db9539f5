"""Time of exported networks in onnxruntime and OpenVINO, beside eager PyTorch.

    python benchmarks/bench_onnx.py
    python benchmarks/bench_onnx.py --preset detection --arch small --size 800x1344
    python benchmarks/bench_onnx.py --runtime eager onnxruntime openvino

Every network is exported as tools/deployment/export_onnx.py does it, and its outputs
are compared with PyTorch's before it gets a time. All take turns (A B A B ...).
What a network computes is said in bench_backbone.py.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from measure import Timer, recorded, time_rows
from networks import build
from report import DEFAULT_OUT, environment, parse_size, table, with_spread, write
from torch import Tensor, nn

from biformer_mm.deployment import runtimes
from biformer_mm.deployment.onnx_check import FP32, compare
from biformer_mm.deployment.onnx_export import OPSET, pin_backend, require_packages, to_onnx
from biformer_mm.utils.errors import UsageError

YARDSTICK = 'mmdet:SwinTransformer'
SIZES = dict(classification='224', detection='800x1344')


class Network(nn.Module):
    """A network to time, as a function of one tensor named ``image``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        return tuple(self.network(image))


def export(spec: str, images: Tensor, folder: Path, args: argparse.Namespace) -> Network:
    """Export a network to ``folder/model.onnx`` and return it."""
    import onnx

    torch.manual_seed(0)
    network = Network(build(spec, args.preset, args.size)).eval()
    with torch.no_grad():
        names = [f'out{i}' for i in range(len(network(images)))]
    eager = build(spec, args.preset, args.size).eval()  # which chooses its own backend
    eager.load_state_dict(network.network.state_dict())
    pin_backend(network)
    folder.mkdir()
    onnx.save(to_onnx(network, names, images), str(folder / 'model.onnx'))
    for runtime in set(args.runtime) - {'eager'}:
        compare(network, str(folder / 'model.onnx'), [images], FP32, runtime)
    return Network(eager)


def make_step(network: Network, path: str, runtime: str, images: Tensor) -> Callable[[], object]:
    """Return the function to time."""
    if runtime != 'eager':
        run, batch = runtimes.load(path, runtime), images.numpy()
        return lambda: run(batch)

    def step() -> None:
        with torch.no_grad():
            network(images)

    return step


def bench(specs: List[str], args: argparse.Namespace) -> List[Dict]:
    """Export, check and time: one row per network and runtime."""
    images = torch.randn(args.batch, 3, *args.size, generator=torch.Generator().manual_seed(0))
    rows, networks = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for i, spec in enumerate(specs):
            made = [dict(model=spec, runtime=runtime, error=None) for runtime in args.runtime]
            failure = dict(error=None)
            with recorded(failure):
                networks[spec] = export(spec, images, Path(folder, str(i)), args)
            for row in made:
                row.update(failure)
                rows[f'{i} {row["runtime"]}'] = row

        def make(name: str) -> Timer:
            row = rows[name]
            path = str(Path(folder, name.split()[0], 'model.onnx'))
            network = networks[row['model']]
            return Timer(make_step(network, path, row['runtime'], images), 'cpu', args.warmup)

        times = time_rows(rows, make, args.repeats)
    for name, seconds in times.items():
        row, first = rows[name], f'0 {rows[name]["runtime"]}'
        row['seconds'] = seconds
        if first in times:
            row['time_ratio'] = seconds['median'] / times[first]['median']
        eager = name.split()[0] + ' eager'
        if eager in times:
            row['time_over_eager'] = seconds['median'] / times[eager]['median']
    return list(rows.values())


def as_table(rows: List[Dict], first: str) -> str:
    """Format the rows as Markdown."""
    lines = []
    for row in rows:
        if row['error']:
            lines.append([row['model'], row['runtime'], '-', '-', row['error'].replace('|', '/')])
            continue
        ratios = (row.get(key) for key in ('time_ratio', 'time_over_eager'))
        ratios = [f'{x:.2f}' if x else '-' for x in ratios]
        lines.append([row['model'], row['runtime'], with_spread(row['seconds'], 1e3), *ratios])
    return table(['model', 'runtime', 'ms (range)', f'time / {first}', 'time / eager'], lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--preset', choices=SIZES, default='classification')
    parser.add_argument('--arch', nargs='+', default=['stl'], help="BiFormer's archs")
    parser.add_argument(
        '--others',
        nargs='*',
        default=[YARDSTICK],
        help='networks of mmdet, timm or biformer, as in bench_backbone.py; the '
        'first is the yardstick (default: %(default)s)',
    )
    parser.add_argument('--size', help='HxW; default: 224, or 800x1344 for detection')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--num-regions', help='S; default: 7, or 16 for detection')
    parser.add_argument(
        '--runtime',
        nargs='+',
        choices=('eager', *runtimes.RUNTIMES),
        default=['eager', 'onnxruntime'],
    )
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=15, help='turns')
    parser.add_argument('--warmup', type=int)
    parser.add_argument('--out', default=DEFAULT_OUT, help='folder')
    args = parser.parse_args()
    args.size = parse_size(args.size or SIZES[args.preset])
    args.num_regions = args.num_regions or (16 if args.preset == 'detection' else 7)
    return args


def main() -> None:
    args = parse_args()
    try:
        for runtime in set(args.runtime) - {'eager'}:
            require_packages(runtime)
    except UsageError as error:
        raise SystemExit(f'error: {error}') from None
    torch.set_num_threads(args.threads)
    specs = [*args.others]
    specs += [f'biformer:{arch},num_regions={args.num_regions}' for arch in args.arch]
    rows = bench(specs, args)
    keys = ('preset', 'batch', 'size', 'repeats')
    about = environment('cpu', args.threads)
    about['opset'] = OPSET
    about.update({x: runtimes.version(x) for x in args.runtime if x != 'eager'})
    result = dict(
        benchmark='onnx',
        environment=about,
        settings={key: getattr(args, key) for key in keys},
        yardstick=specs[0],
        rows=rows,
    )
    shape = 'x'.join(map(str, (args.batch, *args.size)))
    name = '_'.join(['onnx', args.preset, *args.arch, shape])
    write(result, name, [f'batch x H x W: {shape}', as_table(rows, specs[0])], args.out)
    failed = [row for row in rows if row['error']]
    if failed:
        raise SystemExit(
            'error: ' + '; '.join(f'{x["model"]}, {x["runtime"]}: {x["error"]}' for x in failed)
        )


if __name__ == '__main__':
    main()
