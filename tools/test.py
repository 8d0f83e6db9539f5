"""Evaluate a checkpoint, in any OpenMMLab framework."""

import argparse
import os.path as osp

from biformer_mm.checkpoint.mmengine_loader import read_as_data
from biformer_mm.datasets.checks.paths import check_data
from biformer_mm.engine.hooks.compile_blocks_hook import set_compile
from biformer_mm.engine.runner import launch, testing
from biformer_mm.utils.cli import add_trust, check_writable, make_parser, usage_errors
from biformer_mm.utils.errors import UsageError, explained
from biformer_mm.utils.quiet import quiet_known_warnings


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/test.py configs/retinanet_biformer_demo.py '
        'work_dirs/retinanet_biformer_demo/epoch_16.pth --show-dir pictures  '
        '# after make demo',
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    launch.add_common_arguments(parser)
    parser.add_argument('--show-dir', help='write pictures of the predictions there')
    parser.add_argument('--out', metavar='FILE.pkl', help='pickle the predictions there')
    parser.add_argument('--tta', action='store_true', help='augment at test time')
    add_trust(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('test.py'):
        cfg = launch.load_config(args)
        read_as_data(cfg, args.trust)
        if osp.isdir(args.checkpoint):
            raise UsageError(
                f'{args.checkpoint} is a folder, not a checkpoint; give the path of a file'
            )
        if '://' not in args.checkpoint and not osp.isfile(args.checkpoint):
            raise UsageError(f'there is no checkpoint {args.checkpoint}')
        if args.out is not None:
            if not args.out.endswith(('.pkl', '.pickle')):
                raise UsageError(f'--out takes a file that ends in .pkl or .pickle; got {args.out}')
            check_writable('--out', args.out)
        cfg.load_from, cfg.resume = args.checkpoint, False
        set_compile(cfg)
        launch.leave_out_sharding(cfg)
        check_data(cfg, ['test'])
        warnings = launch.refuse_config(cfg, ['test'], args)
        if args.show_dir is not None:
            check_writable('--show-dir', args.show_dir, folder=True)
            testing.set_show_dir(cfg, args.show_dir)
        if args.tta:
            with explained(
                '--tta needs a test_dataloader.dataset.pipeline, '
                'or tta_model and tta_pipeline, as the framework '
                'takes them',
                'correct the config',
            ):
                testing.set_tta(cfg)
        runner = launch.build_runner(cfg, args.allow)
        for line in warnings:
            runner.logger.warning(line)
        if args.out is not None:
            testing.dump_predictions(runner, args.out)
        runner.test()


if __name__ == '__main__':
    main()
