"""Evaluate an ONNX file of export_onnx.py, in any OpenMMLab framework.

The file takes the place of the config's network. Data, post-processing and evaluator are
those of tools/test.py. Pictures go through it one by one.
"""

import argparse
from typing import List

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from biformer_mm.datasets.checks.paths import check_data
from biformer_mm.deployment import runtimes
from biformer_mm.deployment.onnx_export import FeaturePath
from biformer_mm.engine.runner import launch
from biformer_mm.utils.cli import make_parser, usage_errors
from biformer_mm.utils.errors import UsageError
from biformer_mm.utils.quiet import quiet_known_warnings

# What to print for the library's arguments in errors.
OPTIONS = {
    'add backbone=True to export only a BiFormer backbone': 'give the config that was exported'
}


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/deployment/test_onnx.py configs/retinanet_biformer_demo.py retinanet.onnx',
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument('file', help='ONNX file')
    parser.add_argument(
        '--backend',
        choices=runtimes.RUNTIMES,
        default=runtimes.RUNTIMES[0],
        help='what runs the file (default: %(default)s)',
    )
    launch.add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('test_onnx.py', OPTIONS):
        runtimes.require_packages('onnx', args.backend)
        cfg = launch.load_config(args)
        check_data(cfg, ['test'])
        warnings = launch.refuse_config(cfg, ['test'], args)
        # Scales of int8 files depend on all images of a batch.
        cfg.test_dataloader.batch_size = 1
        cfg.load_from, cfg.resume = None, False
        launch.leave_out_sharding(cfg)
        runner = launch.build_runner(cfg, args.allow)
        for line in warnings:
            runner.logger.warning(line)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        replace_network(model, args.file, args.backend)
        runner.test()


def replace_network(model: nn.Module, path: str, runtime: str) -> None:
    """Let a file compute all that a model computes before post-processing.

    Args:
        model: RetinaNet, a segmentor with one decode head, or a classifier.
        path: The file.
        runtime: What runs it.

    Raises:
        UsageError: The model is of another kind, or the file has other outputs.
    """
    names = list(FeaturePath(model).names)
    found = runtimes.output_names(path)
    if found != names:
        raise UsageError(
            f'the file must be an export of the config: its outputs are {names}; {path} has '
            f'{found}; give the config that was exported'
        )
    shape, run = runtimes.input_shape(path), runtimes.load(path, runtime)

    def forward(images: Tensor) -> List[Tensor]:
        runtimes.check_shape(images, shape)
        outputs = [torch.from_numpy(x).to(images.device) for x in run(images.cpu().numpy())]
        if len(outputs) == 1:
            return outputs[0]
        half = len(outputs) // 2  # class scores of all levels, then boxes
        return outputs[:half], outputs[half:]

    head = next(
        getattr(model, name)
        for name in ('bbox_head', 'decode_head', 'head')
        if hasattr(model, name)
    )
    model.extract_feat = lambda images, *args, **kwargs: images
    head.forward = forward


if __name__ == '__main__':
    main()
