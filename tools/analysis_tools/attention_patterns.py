"""Draw which tokens each attention lets a query see, as figure 1 of the paper.

It draws one panel for each attention of the Swin-T layout, with random weights. With --field it
draws the effective receptive field of a config's network: how much each pixel changes the centre
of the last map, the mean over the images.
"""

import argparse
import os.path as osp

import cv2
import numpy as np
from matplotlib.figure import Figure

from biformer_mm.analysis.plotting import check_format, save
from biformer_mm.apis.model import build_model
from biformer_mm.checkpoint.mmengine_loader import read_as_data
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
from biformer_mm.visualization import find_backbone
from biformer_mm.visualization.attention_patterns import attention_patterns, draw_patterns, map_side
from biformer_mm.visualization.inputs import load_input
from biformer_mm.visualization.receptive_field import draw_field, receptive_field

# What to print for the library's arguments in errors.
OPTIONS = {'path must end': '--out must end', 'choose another path': 'give --out another path'}


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'python tools/analysis_tools/attention_patterns.py docs/images/demo.jpg'
    )
    parser.add_argument(
        'images',
        nargs='*',
        metavar='IMAGE',
        help='paths of images; at most one without --field, whose middle square is shown',
    )
    parser.add_argument(
        '--out',
        default='outputs/attention_patterns.png',
        metavar='FIG',
        help='figure to write, .png, .svg or .pdf; %(default)s if left out',
    )
    parser.add_argument('--stage', type=int, default=2, help='from 1 to 4; 2 if left out')
    parser.add_argument(
        '--query',
        type=token,
        metavar='ROW,COL',
        help="the query's token on the map, from 0; left above the middle if left out",
    )
    parser.add_argument(
        '--field', metavar='CONFIG', help='draw the receptive field of this config, of any task'
    )
    parser.add_argument('--checkpoint', help='path or URL of weights; else they are random')
    add_cfg_options(parser)
    add_device(parser)
    add_trust(parser)
    return parser.parse_args()


def token(text: str) -> tuple:
    """'ROW,COL' as two whole numbers."""
    parts = text.split(',')
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f'must be ROW,COL, such as 12,9; got {text}')
    return int(parts[0]), int(parts[1])


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('attention_patterns.py', OPTIONS):
        check_format(args.out)
        check_writable('--out', args.out)
        figure = draw_patterns_of(args) if args.field is None else draw_field_of(args)
        save(figure, args.out)
    print(args.out)


def draw_patterns_of(args: argparse.Namespace) -> Figure:
    """Draw the patterns of all attentions.

    Raises:
        UsageError: An argument does not fit.
    """
    if not 1 <= args.stage <= 4:
        raise UsageError(f'--stage must be from 1 to 4; got {args.stage}')
    if len(args.images) > 1:
        raise UsageError(f'patterns are drawn on one image; got {", ".join(args.images)}: give one')
    side = map_side(args.stage)
    query = args.query or (3 * side // 7, 2 * side // 7)
    if max(query) >= side:
        raise UsageError(
            f'--query must be on the map of stage {args.stage}, {side} x {side} tokens; '
            f'got {query[0]},{query[1]}'
        )
    picture = read_square(args.images[0]) if args.images else None
    return draw_patterns(attention_patterns(args.stage, query, picture), query, picture)


def read_square(path: str) -> np.ndarray:
    """Read the middle square of an image, 448 x 448 pixels, RGB.

    Raises:
        UsageError: OpenCV cannot read the file.
    """
    image = cv2.imread(path) if osp.isfile(path) else None
    if image is None:
        raise UsageError(f'{path} is not an image that OpenCV can read; give a JPEG or PNG')
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = image[top : top + side, left : left + side, ::-1]
    return cv2.resize(np.ascontiguousarray(square), (448, 448), interpolation=cv2.INTER_AREA)


def draw_field_of(args: argparse.Namespace) -> Figure:
    """Draw the receptive field of the config's network.

    Raises:
        UsageError: An argument does not fit.
    """
    if not args.images:
        raise UsageError('--field takes at least one image; got none')
    cfg = read_config(args.field, args.cfg_options)
    read_as_data(cfg, args.trust)
    model, _ = build_model(cfg, args.checkpoint, pick_device(args.device), args.trust)
    if not args.checkpoint:
        print('No --checkpoint: the weights are random, and so is the receptive field.')
    images = (load_input(cfg, model, path).tensor for path in args.images)
    field = receptive_field(find_backbone(model), images)
    return draw_field(field, osp.basename(args.field))


if __name__ == '__main__':
    main()
