"""Quantise an ONNX file of export_onnx.py to 8-bit integers.

Without --static, the weights of linear layers are quantised, and their inputs when the
file runs. With it, convolutions are quantised as well, and the scales of inputs are
found on pictures of the config's training set. Evaluate the result with test_onnx.py.
"""

import argparse
import os
from copy import deepcopy
from typing import Iterator, Sequence

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import Tensor

from biformer_mm.apis.model import build_network
from biformer_mm.datasets.checks.paths import check_data
from biformer_mm.datasets.reading import pipeline_of
from biformer_mm.deployment.onnx_quantize import quantize_dynamic, quantize_static
from biformer_mm.deployment.runtimes import check_shape, input_shape, require_packages
from biformer_mm.utils.cli import add_cfg_options, check_writable, make_parser, usage_errors
from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import UsageError, explained
from biformer_mm.utils.quiet import quiet_known_warnings


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/deployment/quantize_onnx.py retinanet.onnx --out retinanet_int8.onnx '
        '--static configs/retinanet_biformer_demo.py',
    )
    parser.add_argument('file', help='ONNX file')
    parser.add_argument('--out', required=True, metavar='FILE', help='ONNX file to write')
    parser.add_argument(
        '--static', metavar='CONFIG', help='find the scales of inputs on pictures of this config'
    )
    parser.add_argument(
        '--images', type=int, default=64, help='number of pictures (default: %(default)s)'
    )
    parser.add_argument('--force', action='store_true', help='overwrite a file that exists')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('quantize_onnx.py'):
        require_packages('onnx', 'onnxruntime')
        shape = input_shape(args.file)
        check_writable('--out', args.out)
        if os.path.exists(args.out) and not args.force:
            raise UsageError(f'{args.out} exists; add --force to overwrite it')
        if args.images < 1:
            raise UsageError(f'--images must be 1 or more; got {args.images}')
        with explained(
            f'{args.file} must be a file of export_onnx.py', 'export it in float32, without --fp16'
        ):
            if args.static is None:
                quantize_dynamic(args.file, args.out)
            else:
                cfg = read_config(args.static, args.cfg_options)
                check_data(cfg, ['train'])
                quantize_static(args.file, args.out, images_of(cfg, shape, args.images))
        before, after = (os.path.getsize(path) / 1e6 for path in (args.file, args.out))
        print(f'{before:.1f} MB -> {after:.1f} MB  {args.out}')


def images_of(cfg: Config, shape: Sequence[int], number: int) -> Iterator[Tensor]:
    """Yield pictures of the training set, prepared as in testing, (1, C, H, W) each.

    Args:
        cfg: The config.
        shape: Shape of the file's input.
        number: How many at most, spread evenly over the data set.

    Raises:
        UsageError: The config has no such data set, or a picture does not fit the shape.
    """
    preprocess = build_network(cfg).data_preprocessor
    with explained('the config must have a train_dataloader.dataset', 'correct the config'):
        dataset = deepcopy(cfg.train_dataloader.dataset)
        while 'dataset' in dataset:
            dataset = dataset.dataset
        dataset.pipeline = pipeline_of(cfg)
        dataset = DATASETS.build(dataset)
    for i in torch.linspace(0, len(dataset) - 1, min(number, len(dataset))).long().tolist():
        with explained(
            'the pictures of train_dataloader must be readable', 'see tools/misc/check_dataset.py'
        ):
            images = preprocess(pseudo_collate([dataset[i]]))['inputs']
        check_shape(images, shape)
        yield images


if __name__ == '__main__':
    main()
