"""The table of docs/recipes.md that says which tool works with which config.

Call: PYTHONPATH=tests python -m matrix.table FOLDER. It runs the matrix in
FOLDER, which takes long, or what of it has no results there yet, and writes
the table if all is as expected.
"""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List

from config_checks import NAMES
from matrix.processes import start
from matrix.refusals import find_refusal
from matrix.tiers import CONFIGS
from tool_runner import ROOT

from biformer_mm.utils.cli import markdown_table

PAGE = ROOT / 'docs' / 'recipes.md'
BEGIN, END = '<!-- matrix: begin -->', '<!-- matrix: end -->'
WORKS = 'works'
# By config and column: WORKS, or the line with which a tool refuses.
Cells = Dict[str, Dict[str, str]]


def needs_deepspeed(config: str) -> bool:
    """Whether a config cannot be run in this environment."""
    return config.endswith('_zero') and find_spec('deepspeed') is None


def last_line(output: str) -> str:
    """The last that a tool printed."""
    return (output.strip().splitlines() or [''])[-1]


def to_cell(outcome: Dict) -> str:
    """What the table says of an outcome.

    Raises:
        ValueError: It is neither that the tool works nor that it refuses as
            expected.
    """
    refusal = find_refusal(outcome['config'], outcome['column'])
    if refusal is None and outcome['status'] == 0 and not outcome['broken']:
        return WORKS
    line = last_line(outcome['output'])
    said = refusal and re.search(rf'^(\w+\.py: error: )(.*?)({refusal.says})', line)
    if not said or outcome['status'] != 1 or 'Traceback' in outcome['output']:
        raise ValueError('{config}, {column}: {status} {broken}'.format(**outcome) + f': {line}')
    return f'{said[1]}{"... " if said[2] else ""}{said[3]}'


def write_table(cells: Cells) -> str:
    """In Markdown, with the lines under it."""
    lines: List[str] = []
    head = ['config', *next(iter(cells.values()))]
    rows = [head]
    for config, columns in cells.items():
        row = [f'`{config}`']
        for said in columns.values():
            if said != WORKS and said not in lines:
                lines.append(said)
            row.append(said if said == WORKS else f'refused ({lines.index(said) + 1})')
        rows.append(row)
    notes = [f'{i}. `{line}`' for i, line in enumerate(lines, 1)]
    return '\n'.join([markdown_table(rows, left=len(head)), '', *notes])


def read_table(text: str) -> Cells:
    """The inverse of :func:`write_table`."""
    lines = re.findall(r'^\d+\. `(.*)`$', text, re.M)
    head, _, *rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in text.splitlines()
        if line.startswith('|')
    ]
    cells = {}
    for config, *row in rows:
        cells[config.strip('`')] = {
            column: re.sub(r'^refused \((\d+)\)$', lambda number: lines[int(number[1]) - 1], cell)
            for column, cell in zip(head[1:], row)
        }
    return cells


def read_page() -> str:
    """The part of the page that is written here."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def write_page(table: str) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f'{before}{BEGIN}\n{table}\n{END}{after}')


def main() -> None:
    if any(map(needs_deepspeed, NAMES)):
        sys.exit('table.py: error: install deepspeed, for a row of the table')
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(exist_ok=True)
    cells: Cells = {name: {} for name in NAMES}
    wrong = []
    with ThreadPoolExecutor(2) as pool:
        for config, future in start(pool, CONFIGS, folder).items():
            for column, outcome in future.result().items():
                try:
                    cells[config][column] = to_cell(outcome)
                except ValueError as error:
                    wrong.append(str(error))
    if wrong:
        sys.exit('\n'.join(wrong))
    write_page(write_table(cells))


if __name__ == '__main__':
    main()
