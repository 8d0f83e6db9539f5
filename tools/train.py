"""Train a model from a config of any OpenMMLab framework."""
import argparse

from biformer_mm.datasets.paths import check_data
from biformer_mm.engine import launch


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--amp',
        nargs='?',
        const='float16',
        choices=['float16', 'bfloat16'],
        help='train with automatic mixed precision (float16 if not said)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='resume from a checkpoint, by default the last in the work '
        'directory')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the rate by the total batch over the recipe's")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with launch.usage_errors('train.py'):
        cfg = launch.load_config(args)
        launch.set_resume(cfg, args.resume)
        launch.set_amp(cfg, args.amp)
        if args.auto_scale_lr:
            launch.set_auto_scale_lr(cfg)
        check_data(cfg, ['train', 'val'])
    runner = launch.build_runner(cfg)
    launch.warn_of_other_batch(runner, args.cfg_options)
    runner.train()


if __name__ == '__main__':
    main()
