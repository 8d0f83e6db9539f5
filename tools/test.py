"""Evaluate a checkpoint, in any OpenMMLab framework."""
import argparse
import os.path as osp

from biformer_mm.datasets.paths import check_data
from biformer_mm.engine import launch, testing
from biformer_mm.errors import UsageError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--show-dir', help='write pictures of the predictions there')
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='pickle the predictions there')
    parser.add_argument(
        '--tta', action='store_true', help='augment at test time')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with launch.usage_errors('test.py'):
        cfg = launch.load_config(args)
        if '://' not in args.checkpoint and not osp.isfile(args.checkpoint):
            raise UsageError(f'there is no checkpoint {args.checkpoint}')
        if args.out and not args.out.endswith(('.pkl', '.pickle')):
            raise UsageError('--out takes a file that ends in .pkl or '
                             f'.pickle; got {args.out}')
        check_data(cfg, ['test'])
        if args.show_dir:
            testing.set_show_dir(cfg, args.show_dir)
        if args.tta:
            testing.set_tta(cfg)
    runner = launch.build_runner(cfg)
    with launch.usage_errors('test.py'):
        testing.load_checkpoint(runner, args.checkpoint)
    if args.out:
        testing.dump_predictions(runner, args.out)
    runner.test()


if __name__ == '__main__':
    main()
