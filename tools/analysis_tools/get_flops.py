"""Parameters, multiply-adds and activations of a config's model, by part.

Inference on one image of the size given is counted; mostly nothing is
computed for it, as tensors that have a shape alone pass through the model.
"""
import argparse
from typing import Dict, List, Tuple

from mmengine.config import Config
from mmengine.logging import MMLogger

from biformer_mm.analysis.cost import BOXES, MASKS, Cost, cost_by_part
from biformer_mm.checkpoint.mmengine_loader import read_as_data
from biformer_mm.engine.command_line import (add_cfg_options, make_parser,
                                             read_config, usage_errors)
from biformer_mm.errors import UsageError, explained

FOOTNOTES = '''
multiply-adds: of convolutions and matrix products, a multiplication and the
  addition after it being one; activations: the numbers that these put out,
  of fused attention its result alone'''


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'python tools/analysis_tools/get_flops.py '
        'configs/retinanet_biformer_s_1x.py --shape 800 1280')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        required=True,
        metavar=('H', 'W'),
        help='height and width of the image in pixels; H alone is a square')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with usage_errors('get_flops.py'):
        size = parse_shape(args.shape)
        # What the frameworks tell while they build would mix with the table.
        MMLogger.get_current_instance().setLevel('WARNING')
        cfg = read_config(args.config, args.cfg_options)
        read_as_data(cfg)
        costs = count(cfg, size)
    print(f'{args.config}, one image of {size[0]} x {size[1]} '
          '(height x width)\n')
    print(table(costs))
    print(FOOTNOTES)
    if any(name.startswith('roi_head') for name in costs):
        print(f'two-stage heads: for {BOXES} boxes and {MASKS} masks')
    idle = [
        name for name, cost in costs.items()
        if cost.parameters and not cost.activations
    ]
    if idle:
        print('no convolution or matrix product in inference: '
              f'{", ".join(idle)}')


def parse_shape(shape: List[int]) -> Tuple[int, int]:
    """[H, W] or [side] -> (height, width).

    Raises:
        UsageError: It is neither, or not positive.
    """
    if len(shape) > 2 or min(shape) < 1:
        raise UsageError('--shape takes a height and a width in pixels, or '
                         'the side of a square; got '
                         f'{" ".join(map(str, shape))}')
    return shape[0], shape[-1]


def count(cfg: Config, size: Tuple[int, int]) -> Dict[str, Cost]:
    """The cost of each part that has parameters or does something.

    Raises:
        UsageError: The config has no model, or the model takes no such image.
    """
    with explained(
            f'this config must allow inference on {size[0]} x {size[1]}',
            'give another --shape, or mend its model'):
        costs = cost_by_part(cfg, size)
    return {name: cost for name, cost in costs.items() if any(cost)}


def table(costs: Dict[str, Cost]) -> str:
    """In Markdown, a line for each part and one for all."""
    total = Cost(*map(sum, zip(*costs.values())))
    cells = [('part', 'parameters', 'multiply-adds', 'activations')]
    cells += [(name, *(f'{number:,}' for number in cost))
              for name, cost in [*costs.items(), ('total', total)]]
    cells.append(('', f'{total.parameters / 1e6:,.1f} M',
                  f'{total.multiply_adds / 1e9:,.1f} G',
                  f'{total.activations / 1e6:,.1f} M'))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        ' | '.join([line[0].ljust(widths[0])] +
                   [x.rjust(w) for x, w in zip(line[1:], widths[1:])])
        for line in cells
    ]
    rule = '|'.join(['-' * (widths[0] + 2)] +
                    ['-' * (width + 1) + ':' for width in widths[1:]])
    return '\n'.join([f'| {lines[0]} |', f'|{rule}|'] +
                     [f'| {line} |' for line in lines[1:]])


if __name__ == '__main__':
    main()
