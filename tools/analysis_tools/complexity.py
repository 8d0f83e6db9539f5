"""Multiply-adds of bi-level routing attention by formula, term by term.

Equation 8 with the S of equation 9 beside full and axial attention, on maps of
several sizes: a table in Markdown and, with --out, a figure.
"""

import argparse
import math
from typing import Dict, List, NamedTuple, Tuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biformer_mm.analysis.complexity import (
    Terms,
    axial_attention,
    best_num_regions,
    full_attention,
    routing_attention,
)
from biformer_mm.analysis.plotting import STYLE, check_format, line, save
from biformer_mm.ops import auto_num_regions
from biformer_mm.utils.cli import (
    check_writable,
    make_parser,
    markdown_table,
    print_report,
    usage_errors,
)
from biformer_mm.utils.errors import UsageError

# What to print for the library's arguments in errors.
OPTIONS = {'path must end': '--out must end', 'choose another path': 'give --out another path'}
MOST = 10**5  # of all options: beyond any network

FOOTNOTES = """
Millions of multiply-adds of one layer, C={channels}, k={topk}, one map.
projection + routing + attention = BRA: 3HWC^2 + 2S^4C + 2k(HW)^2C/S^2 (eq. 8),
  HW being the tokens of the map padded to multiples of S;
  S by eq. 9 is (k/2 (HW)^2)^(1/6), {rule}
axial: 3HWC^2 + 2HWC(H+W); full: 3HWC^2 + 2(HW)^2C
Left out of all three: output projection, local context enhancement, softmax;
of BRA: region means and top-k. Eq. 8 counts the routing product twice."""


class Row(NamedTuple):
    height: int
    width: int
    num_regions: int
    terms: Terms
    axial: int
    full: int


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'python tools/analysis_tools/complexity.py --topk 4 --out complexity.png'
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        default=['16', '32', '64', '128', '256', '512'],
        metavar='SIZE',
        help='maps in tokens, as the side of a square or HEIGHTxWIDTH; stage '
        '1 has one token for 4 x 4 pixels (default: 16 32 64 128 256 512)',
    )
    parser.add_argument('--channels', type=int, default=64, help='C (default: 64)')
    parser.add_argument(
        '--topk',
        type=int,
        default=1,
        help='routed regions per region, k (default: 1, as in stage 1)',
    )
    parser.add_argument(
        '--num-regions',
        default='auto',
        metavar='S',
        help="regions per side, or 'auto', the default: for each map, what "
        "the backbone's num_regions='auto' chooses",
    )
    parser.add_argument('--out', metavar='FIG', help='figure to write, .png, .svg or .pdf')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with usage_errors('complexity.py', OPTIONS):
        if args.out is not None:
            check_format(args.out)
            check_writable('--out', args.out)
        for name in ('channels', 'topk'):
            check_range(f'--{name}', getattr(args, name))
        auto = args.num_regions == 'auto'
        sizes = sorted(set(map(parse_size, args.sizes)), key=math.prod)
        rows = [make_row(size, args.channels, args.topk, args.num_regions) for size in sizes]
        if args.out is not None:
            save(plot(rows, args.channels, args.topk, auto), args.out)
    footnotes = FOOTNOTES.format(
        channels=args.channels,
        topk=args.topk,
        rule='S the whole number that costs least, padding counted' if auto else 'S as asked for',
    )
    print_report('\n'.join([table(rows, args.topk), footnotes, *filter(None, [args.out])]))


def check_range(name: str, value: int) -> None:
    """Raise a UsageError unless an option is from 1 to :data:`MOST`."""
    if not 1 <= value <= MOST:
        raise UsageError(f'{name} must be from 1 to {MOST}; got {value}')


def is_number(text: str) -> bool:
    """Whether it is a whole number in digits of ASCII, not too long."""
    return text.isascii() and text.isdecimal() and len(text) < 20


def parse_size(text: str) -> Tuple[int, int]:
    """'56' or '200x320' -> (height, width).

    Raises:
        UsageError: It is neither.
    """
    sides = text.split('x')
    if len(sides) > 2 or not all(map(is_number, sides)):
        raise UsageError(
            f'--sizes takes whole numbers, or two joined by x; got {text}, not 56 or 200x320'
        )
    height, width = int(sides[0]), int(sides[-1])
    check_range('--sizes', min(height, width))
    check_range('--sizes', max(height, width))
    return height, width


def make_row(size: Tuple[int, int], channels: int, topk: int, num_regions: str) -> Row:
    """The counts for one map.

    Raises:
        UsageError: ``num_regions`` is neither 'auto' nor a possible S.
    """
    if num_regions == 'auto':
        regions = auto_num_regions(*size, channels, topk)
    elif is_number(num_regions) and topk <= int(num_regions) ** 2:
        regions = int(num_regions)
        check_range('--num-regions', regions)
    else:
        raise UsageError(
            "--num-regions must be 'auto' or a whole number whose square is "
            f'at least --topk, {topk}; got {num_regions}'
        )
    terms = routing_attention(*size, channels, topk, regions)
    return Row(
        *size, regions, terms, axial_attention(*size, channels), full_attention(*size, channels)
    )


def table(rows: List[Row], topk: int) -> str:
    """In Markdown, a line for each map."""
    cells = [('H x W', 'S by eq. 9', 'S', *Terms._fields, 'BRA', 'axial', 'full')]
    for row in rows:
        best = best_num_regions(row.height, row.width, topk)
        counts = (*row.terms, row.terms.total, row.axial, row.full)
        millions = [f'{count / 1e6:,.1f}' for count in counts]
        cells.append(
            (f'{row.height} x {row.width}', f'{best:.2f}', str(row.num_regions), *millions)
        )
    return markdown_table(cells)


def plot(rows: List[Row], channels: int, topk: int, auto: bool) -> Figure:
    """Equation 8's terms, and its sum beside the other kinds."""
    regions = 'S chosen for each map' if auto else f'S={rows[0].num_regions}'
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 5), layout='constrained')
        terms, kinds = figure.subplots(1, 2, sharex=True, sharey=True)
        bra = [row.terms.total for row in rows]
        draw(
            terms,
            rows,
            {
                'sum': (bra, line(0)),
                'projection, 3HWC²': ([row.terms.projection for row in rows], line(1)),
                'attention, 2k(HW)²C/S²': ([row.terms.attention for row in rows], line(2)),
                'routing, 2S⁴C': ([row.terms.routing for row in rows], line(3)),
            },
            f'Terms of equation 8, {regions}',
        )
        curves = {
            f'BRA, {regions}': (bra, line(0)),
            'axial attention': ([row.axial for row in rows], line(4)),
            'full attention': ([row.full for row in rows], line(5)),
        }
        tokens = [row.height * row.width for row in rows]
        if len(rows) > 1 and tokens[-1] > tokens[-2]:
            curves = {
                f'{label}: slope {slope(tokens, curve[0]):.2f}': curve
                for label, curve in curves.items()
            }
        draw(kinds, rows, curves, 'Beside other attention')
        terms.set_ylabel('multiply-adds of one layer')
        figure.suptitle(f'C={channels}, k={topk}; slopes between the two largest maps', fontsize=11)
    return figure


def draw(
    axis: Axes, rows: List[Row], curves: Dict[str, Tuple[List[int], Dict]], title: str
) -> None:
    """Draw counts, each with the look of its line, against tokens on logarithmic axes."""
    tokens = [row.height * row.width for row in rows]
    for label, (counts, look) in curves.items():
        axis.plot(tokens, counts, label=label, **look)
    axis.set_xscale('log')
    axis.set_yscale('log')
    axis.set_xticks(tokens, [f'{row.height}x{row.width}' for row in rows])
    axis.minorticks_off()
    axis.set_xlabel('size of the map, tokens')
    axis.set_title(title)
    axis.legend(loc='upper left')


def slope(tokens: List[int], counts: List[int]) -> float:
    """Exponent of the growth between the two largest maps."""
    return math.log(counts[-1] / counts[-2]) / math.log(tokens[-1] / tokens[-2])


if __name__ == '__main__':
    main()
