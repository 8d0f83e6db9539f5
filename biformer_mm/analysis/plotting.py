"""Style and save the figures of the analysis tools."""

import os.path as osp
from typing import Dict

from matplotlib import rc_context
from matplotlib.figure import Figure

from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.errors import UsageError

FORMATS = ('.png', '.svg', '.pdf')
# Okabe and Ito's colours, which colour-blind people can tell apart.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
# For grey print. There are as many as colours: shifted by one after each round,
# they make 36 pairs.
DASHES = (
    '-',
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (10, 3)),
)
MARKERS = 'osD^vP'
STYLE = {
    'font.size': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': '#E3E3E3',
    'axes.axisbelow': True,
    'axes.titlesize': 11,
    'axes.titlelocation': 'left',
    'lines.linewidth': 1.8,
    'lines.markersize': 5,
    'legend.frameon': False,
    'legend.handlelength': 3,
    'savefig.facecolor': 'white',
    'svg.fonttype': 'none',  # text stays text
}


def line(i: int) -> Dict:
    """Return colour, dashes and marker of the i-th line of a figure."""
    shifted = (i + i // len(COLORS)) % len(DASHES)
    return dict(color=COLORS[i % len(COLORS)], linestyle=DASHES[shifted], marker=MARKERS[shifted])


def check_format(path: str) -> None:
    """Refuse an output path for a figure before the work starts.

    Raises:
        UsageError: The suffix is not in :data:`FORMATS`.
    """
    if osp.splitext(path)[1].lower() not in FORMATS:
        raise UsageError(f'path must end in one of {", ".join(FORMATS)}; got {path}')


def save(figure: Figure, path: str) -> None:
    """Write a figure completely or not at all, and create its folder.

    Args:
        figure: The figure, drawn under :data:`STYLE`.
        path: Output path; its suffix is the format.

    Raises:
        UsageError: The path cannot be written.
    """
    try:
        with whole_file(path) as unfinished, rc_context(STYLE):
            figure.savefig(unfinished, format=osp.splitext(path)[1][1:].lower(), dpi=150)
    except OSError as error:
        raise UsageError(f'{path} cannot be written: {error}; choose another path') from error
