"""Parameters, multiply-adds and activations of a config's model, by part.

Inference on one image of the size given is counted; mostly nothing is
computed for it, as the tensors have only a shape and no values.
"""

import argparse
from typing import Dict, Tuple

from mmengine.config import Config
from mmengine.logging import MMLogger

from biformer_mm.analysis.cost import BOXES, MASKS, Cost, cost_by_part
from biformer_mm.checkpoint.mmengine_loader import read_as_data
from biformer_mm.utils.cli import (
    add_cfg_options,
    add_shape,
    make_parser,
    markdown_table,
    print_report,
    usage_errors,
)
from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import explained
from biformer_mm.utils.quiet import quiet_known_warnings

FOOTNOTES = """
multiply-adds: of convolutions and matrix products, a multiplication and the
  addition after it being one; activations: the numbers that these put out,
  of fused attention only its result"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/analysis_tools/get_flops.py '
        'configs/retinanet_biformer_s_1x.py --shape 800 1280',
    )
    parser.add_argument('config', help='path of the config')
    add_shape(parser)
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('get_flops.py'):
        # What the frameworks tell while they build would mix with the table.
        MMLogger.get_current_instance().setLevel('WARNING')
        cfg = read_config(args.config, args.cfg_options)
        read_as_data(cfg)
        costs = count(cfg, args.shape)
    height, width = args.shape
    lines = [
        f'{args.config}, one image of {height} x {width} (height x width)\n',
        table(costs),
        FOOTNOTES,
    ]
    if any(name.startswith('roi_head') for name in costs):
        lines.append(f'two-stage heads: for {BOXES} boxes and {MASKS} masks')
    idle = [name for name, cost in costs.items() if cost.parameters and not cost.activations]
    if idle:
        lines.append(f'no convolution or matrix product in inference: {", ".join(idle)}')
    print_report('\n'.join(lines))


def count(cfg: Config, size: Tuple[int, int]) -> Dict[str, Cost]:
    """The cost of each part that has parameters or does something.

    Raises:
        UsageError: The config has no model, or the model takes no such image.
    """
    with explained(
        f'this config must allow inference on {size[0]} x {size[1]}',
        'give another --shape, or correct its model',
    ):
        costs = cost_by_part(cfg, size)
    return {name: cost for name, cost in costs.items() if any(cost)}


def table(costs: Dict[str, Cost]) -> str:
    """In Markdown, a line for each part and one for all."""
    total = Cost(*map(sum, zip(*costs.values())))
    cells = [('part', 'parameters', 'multiply-adds', 'activations')]
    cells += [
        (name, *(f'{number:,}' for number in cost))
        for name, cost in [*costs.items(), ('total', total)]
    ]
    cells.append(
        (
            '',
            f'{total.parameters / 1e6:,.1f} M',
            f'{total.multiply_adds / 1e9:,.1f} G',
            f'{total.activations / 1e6:,.1f} M',
        )
    )
    return markdown_table(cells, left=1)


if __name__ == '__main__':
    main()
