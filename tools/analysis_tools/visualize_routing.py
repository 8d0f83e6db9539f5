"""Draw where a BiFormer looks: routed regions and attention of a block.

For each image and query position it writes the three panels of the paper's
figure 4: the query, the regions that its region is routed to, by rank, and
the attention of its token. With --html it writes a page to explore all
blocks of one image in a browser.
"""

import argparse
import math
import os.path as osp
import sys
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.utils import ProgressBar
from torch import nn

from biformer_mm.apis.model import build_model
from biformer_mm.checkpoint.mmengine_loader import read_as_data
from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.cli import (
    add_cfg_options,
    add_device,
    add_trust,
    check_writable,
    make_parser,
    pick_device,
    usage_errors,
)
from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import UsageError
from biformer_mm.utils.quiet import quiet_known_warnings
from biformer_mm.visualization import find_backbone, find_block, record_routing
from biformer_mm.visualization.explorer import write_explorer
from biformer_mm.visualization.inputs import load_input
from biformer_mm.visualization.routing_figures import draw_routing


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/analysis_tools/visualize_routing.py '
        'docs/images/demo.jpg --config configs/retinanet_biformer_demo.py '
        '--query 300,200',
    )
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='paths of images')
    parser.add_argument('--config', required=True, help='path of a config, of any task')
    parser.add_argument('--checkpoint', help='path or URL of weights; else they are random')
    parser.add_argument(
        '--query',
        nargs='+',
        type=position,
        default=[],
        metavar='X,Y',
        help='positions in the image file, in pixels; the middle of what the '
        'network sees if left out',
    )
    parser.add_argument('--stage', type=int, default=3, help='from 1; 3 if left out')
    parser.add_argument(
        '--block', type=int, default=-1, help="from 1, or -1, the default, for the stage's last"
    )
    parser.add_argument(
        '--out',
        default='outputs/routing',
        metavar='DIR',
        help='where pictures go; %(default)s if left out',
    )
    parser.add_argument(
        '--html', metavar='FILE.html', help='write the page of one image, instead of pictures'
    )
    add_cfg_options(parser)
    add_device(parser)
    add_trust(parser)
    return parser.parse_args()


def position(text: str) -> Tuple[float, float]:
    """'X,Y' as two numbers."""
    try:
        x, y = map(float, text.split(','))
        if math.isfinite(x) and math.isfinite(y):
            return x, y
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'must be X,Y in pixels, such as 300,200; got {text}')


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('visualize_routing.py'):
        check_paths(args.images, args.html)
        if args.html is None:
            check_writable('--out', args.out, folder=True)
        else:
            check_writable('--html', args.html)
        cfg = read_config(args.config, args.cfg_options)
        read_as_data(cfg, args.trust)
        model, _ = build_model(cfg, args.checkpoint, pick_device(args.device), args.trust)
        if not args.checkpoint:
            print('No --checkpoint: the weights are random, and so is where the network looks.')
        block = find_block(find_backbone(model), args.stage, args.block)
        if args.html is not None:
            explore(cfg, model, args.images[0], args.html)
            return
        bar = ProgressBar(len(args.images)) if len(args.images) > 1 else None
        problems = []
        for image in args.images:
            try:
                draw(
                    cfg,
                    model,
                    image,
                    args.query,
                    args.stage,
                    block,
                    picture_path(args.out, image, args.stage, block),
                )
            except UsageError as error:
                problems.append(str(error))
            if bar:
                bar.update()
        if bar:
            print()
        done = len(args.images) - len(problems)
        print(f'{done} of {len(args.images)} pictures are in {args.out}')
        if len(problems) > 1:
            print(*problems, sep='\n', file=sys.stderr)
            raise UsageError(
                f'all images must be drawn; {len(problems)} of '
                f'{len(args.images)} were not, as listed above'
            )
        if problems:
            raise UsageError(*problems)


def check_paths(images: Sequence[str], html: Optional[str]) -> None:
    """Refuse what would end in the middle.

    Raises:
        UsageError: An image does not exist, two would be drawn to the same
            file, or --html is asked for of several.
    """
    names = {}
    for image in images:
        if not osp.isfile(image):
            raise UsageError(f'there is no image {image}')
        other = names.setdefault(Path(image).stem, image)
        if other is not image:
            raise UsageError(
                'images must differ in name, as pictures are '
                f'named after them; got {other} and {image}: '
                'draw them one by one with different --out'
            )
    if html is not None and len(images) > 1:
        raise UsageError(f'--html takes one image; got {len(images)}: call it once for each')


def picture_path(folder: str, image: str, stage: int, block: int) -> Path:
    return Path(folder) / f'{Path(image).stem}_stage{stage}_block{block}.png'


def draw(
    cfg: Config,
    model: nn.Module,
    image: str,
    queries: List[Tuple[float, float]],
    stage: int,
    block: int,
    path: Path,
) -> None:
    """Write the picture of one image, wholly or not at all."""
    seen = load_input(cfg, model, image)
    height, width = seen.picture.shape[:2]
    places = [seen.at(*query) for query in queries]
    (routing,) = record_routing(find_backbone(model), seen.tensor, stage, block)
    figure = draw_routing(seen.picture, routing, places or [(width // 2, height // 2)])
    try:
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, dpi=100, format='png')
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str, error: OSError) -> UsageError:
    return UsageError(f'{path} cannot be written ({error}); give another path or free its disk')


def explore(cfg: Config, model: nn.Module, image: str, path: str) -> None:
    """Write the page of one image."""
    seen = load_input(cfg, model, image)
    try:
        write_explorer(
            path,
            seen.picture,
            record_routing(find_backbone(model), seen.tensor),
            title=osp.basename(image),
        )
    except OSError as error:
        raise cannot_write(path, error) from error
    print(f'{path}, {osp.getsize(path) / 1e6:.1f} MB')


if __name__ == '__main__':
    main()
