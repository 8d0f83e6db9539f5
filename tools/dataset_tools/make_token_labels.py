"""Make the label maps of token labelling with a trained classifier.

Writes a map for each image below IMAGES, at the same place below --out: the
five best classes of each position of the classifier's last map, as LV-ViT
publishes them. Images that have a map already are left out, so an interrupted
run goes on where it was.
"""

import argparse
import os
import sys

from biformer_mm.apis.model import build_model
from biformer_mm.utils.cli import (
    add_cfg_options,
    add_device,
    add_shape,
    add_trust,
    check_writable,
    make_parser,
    pick_device,
    usage_errors,
)
from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import UsageError
from biformer_mm.utils.quiet import quiet_known_warnings

# What to print for the library's arguments in errors.
OPTIONS = {
    'another label_root': 'another --out',
    'make it again': 'delete it, or give another --out',
}


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/dataset_tools/make_token_labels.py configs/biformer_demo.py '
        'work_dirs/biformer_demo/epoch_16.pth data/shapes/imagenet/train '
        '--out data/shapes/token_labels --shape 64  # after make demo TASK=classification',
    )
    parser.add_argument('config', help='path of the config of a classifier')
    parser.add_argument('checkpoint', help='path or URL of its weights')
    parser.add_argument('images', help='folder of the images')
    parser.add_argument('--out', required=True, help='folder of the label maps')
    add_shape(parser)
    parser.add_argument(
        '--batch-size', type=int, default=32, help='images to classify at once (default: 32)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(8, os.cpu_count() or 1),
        help='processes that read images (default: one for each processor, 8 at most)',
    )
    add_device(parser)
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('make_token_labels.py', OPTIONS):
        if min(args.batch_size, args.workers) < 1:
            raise UsageError(
                '--batch-size and --workers must be 1 or more; got '
                f'{args.batch_size} and {args.workers}'
            )
        check_writable('--out', args.out, folder=True)
        cfg = read_config(args.config, args.cfg_options)
        model, _ = build_model(cfg, args.checkpoint, pick_device(args.device), args.trust)
        from biformer_mm.apis.token_labels import make_token_labels  # needs mmpretrain

        written, kept = make_token_labels(
            model,
            args.images,
            args.out,
            args.shape,
            args.batch_size,
            args.workers,
            progress=sys.stderr.isatty(),
        )
    print(f'{written} label maps written to {args.out}, {kept} were there')


if __name__ == '__main__':
    main()
