"""Export a network to an ONNX file that onnxruntime or OpenVINO runs with equal results.

The file takes normalised images and gives what the network computes before
post-processing: RetinaNet's class scores and boxes of each level, the logits
of a segmentor or classifier, or with --backbone the backbone's maps. It is
written only if onnxruntime, or with --backend OpenVINO, computes from it what
PyTorch does.
"""

import argparse
import os
from typing import List, Tuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from biformer_mm.apis.model import build_model
from biformer_mm.checkpoint.mmengine_loader import read_as_data
from biformer_mm.datasets.reading import PictureReader, Unreadable, pipeline_of
from biformer_mm.deployment.onnx_check import Agreement
from biformer_mm.deployment.onnx_export import (
    OPSET,
    Dynamic,
    FeaturePath,
    check_target,
    export_onnx,
    pin_backend,
    require_packages,
)
from biformer_mm.deployment.runtimes import RUNTIMES
from biformer_mm.utils.cli import (
    add_cfg_options,
    add_shape,
    add_trust,
    check_writable,
    make_parser,
    usage_errors,
)
from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import UsageError
from biformer_mm.utils.quiet import quiet_known_warnings

# What to print for the library's arguments in errors.
OPTIONS = {
    'backbone=True': '--backbone',
    'Dynamic(size=True)': '--dynamic-size',
    'half=True': '--fp16',
    'force=True': '--force',
    'images must be at least': '--shape must be at least',
    'needs images in': 'needs --shape in',
    'take images of': 'take --shape',
    "set attn_backend='auto'": 'add --cfg-options model.backbone.attn_backend=auto',
}


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/deployment/export_onnx.py '
        'configs/semantic_fpn_biformer_demo.py --shape 96 96 --dynamic '
        '--out demo.onnx',
    )
    parser.add_argument('config', help='path of a config')
    parser.add_argument(
        'checkpoint', nargs='?', help='path or URL of its weights; without, they are as initialised'
    )
    add_shape(parser)
    parser.add_argument('--out', required=True, metavar='FILE', help='ONNX file to write')
    parser.add_argument(
        '--backbone',
        action='store_true',
        help="export the backbone's maps instead of the whole network",
    )
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='let the file take any number of images at once, not only 1',
    )
    parser.add_argument(
        '--dynamic-size',
        action='store_true',
        help='let it take every H and W whose maps the regions divide, not only --shape',
    )
    parser.add_argument(
        '--fp16',
        action='store_true',
        help='weights and arithmetic in float16; input and outputs stay float32',
    )
    parser.add_argument(
        '--image',
        nargs='+',
        default=[],
        help='compare with PyTorch on these images, resized; without, on smooth noise',
    )
    parser.add_argument(
        '--backend',
        choices=RUNTIMES,
        default=RUNTIMES[0],
        help='what runs the file for the comparison (default: %(default)s)',
    )
    parser.add_argument('--force', action='store_true', help='overwrite a file that exists')
    add_cfg_options(parser)
    add_trust(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('export_onnx.py', OPTIONS):
        require_packages(args.backend)
        check_target(args.out, args.shape, args.force)
        check_writable('--out', args.out)
        cfg = read_config(args.config, args.cfg_options)
        read_as_data(cfg, args.trust)
        model, _ = build_model(cfg, args.checkpoint, trust=args.trust)
        path = FeaturePath(model, args.backbone)
        backends = pin_backend(path)
        images = load_images(cfg, model, args.image, args.shape)
        onnx_model, agreement = export_onnx(
            path,
            args.out,
            images,
            Dynamic(args.dynamic, args.dynamic_size),
            args.fp16,
            args.force,
            args.backend,
        )
        kind = 'backbone of ' if args.backbone else ''
        weights = args.checkpoint or 'no checkpoint, weights as initialised'
        precision = 'float16' if args.fp16 else 'float32'
        print(
            f'{kind}{type(model).__name__}, {weights}\nopset {OPSET}, '
            f'{precision}, exported with the attention backend '
            f'{" and ".join(backends)}'
        )
        print(describe(onnx_model, agreement, args.backend))
        print(f'{os.path.getsize(args.out) / 1e6:.1f} MB  {args.out}')


def load_images(cfg: Config, model: nn.Module, paths: List[str], shape: Tuple[int, int]) -> Tensor:
    """Images of H x W as the model takes them, normalised, (n, C, H, W).

    Raises:
        UsageError: One cannot be read.
    """
    height, width = shape
    if not paths:
        channels = getattr(getattr(model, 'backbone', model), 'in_channels', 3)
        noise = torch.Generator().manual_seed(0)
        coarse, fine = (
            torch.randn(3, channels, *size, generator=noise) for size in ((12, 12), (height, width))
        )
        return nn.functional.interpolate(coarse, (height, width), mode='bicubic') + fine / 4
    read, images = PictureReader(pipeline_of(cfg)), []
    for path in paths:
        try:
            image = cv2.resize(read(path), (width, height))
        except Unreadable as error:
            raise UsageError(
                f'--image: {path} is no image that can be read ({error}); leave it out'
            ) from error
        pixels = np.atleast_3d(image).transpose(2, 0, 1).astype(np.float32)
        images.append(torch.from_numpy(pixels))
    data = dict(inputs=images, data_samples=None)
    inputs = model.data_preprocessor(data)['inputs']
    return inputs[:, :, :height, :width].contiguous()  # it pads some


def describe(model, agreement: Agreement, runtime: str) -> str:
    """Input, outputs and how far they agree with PyTorch."""
    rows = [('', '', 'shape', 'difference', 'of', 'relative')]
    for role in 'input', 'output':
        for value in getattr(model.graph, role):
            dims = value.type.tensor_type.shape.dim
            shape = ' x '.join(d.dim_param or str(d.dim_value) for d in dims)
            row = [role, value.name, shape, '', '', '']
            if role == 'output':
                found = agreement.outputs[value.name]
                row[3:] = (f'{found.absolute:.1e}', f'{found.scale:.3g}', f'{found.relative:.1e}')
            rows.append(tuple(row))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )
    routing = agreement.routing
    shapes = ', '.join('x'.join(map(str, s)) for s in agreement.shapes)
    text = f'{table}\nchecked in {runtime} on {shapes}'
    if routing.rows:
        text += (
            f'\nrouting: {routing.other} of {routing.rows} query regions '
            'chose other regions than in PyTorch, which match as well '
            f'up to {routing.shortfall:.0e}'
        )
    return text


if __name__ == '__main__':
    main()
