"""Train a model from a config of any OpenMMLab framework."""

import argparse

from torch.distributed.elastic.multiprocessing.errors import record

from biformer_mm.checkpoint.mmengine_loader import read_as_data
from biformer_mm.datasets.checks.paths import check_data
from biformer_mm.engine.hooks.compile_blocks_hook import set_compile
from biformer_mm.engine.runner import launch
from biformer_mm.utils.cli import add_trust, make_parser, usage_errors
from biformer_mm.utils.quiet import quiet_known_warnings


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/train.py configs/retinanet_biformer_demo.py '
        '--work-dir work_dirs/mine  # after make demo',
    )
    parser.add_argument('config', help='path of the config')
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--amp',
        nargs='?',
        const='float16',
        choices=['float16', 'bfloat16'],
        help='train with automatic mixed precision (float16 if not said)',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help="compile BiFormer block by block (compile='blocks' in a config)",
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='resume from a checkpoint, by default the last in the work directory',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the rate by the batch of a step, with all processes and '
        "accumulated gradients, over the recipe's",
    )
    add_trust(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('train.py'):
        cfg = launch.load_config(args)
        read_as_data(cfg, args.trust)
        launch.set_resume(cfg, args.resume, args.trust)
        launch.set_amp(cfg, args.amp)
        set_compile(cfg, args.compile)
        launch.survive_interruptions(cfg)
        scaled = launch.scale_rate(cfg, args.auto_scale_lr)
        check_data(cfg, ['train', 'val'])
        warnings = launch.refuse_config(cfg, ['train', 'val'], args)
        runner = launch.build_runner(cfg, args.allow)
        for line in warnings:
            runner.logger.warning(line)
        if scaled:
            runner.logger.info(scaled)
        else:
            launch.warn_of_other_batch(runner, args.cfg_options)
        with launch.out_of_memory_advice():
            runner.train()


if __name__ == '__main__':
    record(main)()  # torchrun's report has the traceback of the rank that failed
