import re
import runpy

import pytest
from tool_runner import ROOT, run_tool

from biformer_mm.ops import auto_num_regions

TOOL = 'analysis_tools/complexity.py'


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools' / TOOL))


def rows(output):
    """Cells of the table, without its head."""
    return [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in output.splitlines()
        if line.startswith('|')
    ][2:]


def test_prints_a_table_and_writes_the_figure(tmp_path):
    output = run_tool(
        TOOL,
        '--sizes',
        '56',
        '28x14',
        '--num-regions',
        7,
        '--topk',
        2,
        '--out',
        'new/figure.svg',
        cwd=tmp_path,
    )
    # In millions, by hand: 392 tokens in regions of 8, 3136 in those of 64.
    assert [' '.join(row) for row in rows(output)] == [
        '28 x 14 7.32 7 4.8 0.3 0.8 5.9 6.9 24.5',
        '56 x 56 14.64 7 38.5 0.3 51.4 90.2 83.5 1,297.4',
    ]
    text = (tmp_path / 'new' / 'figure.svg').read_text()
    assert 'BRA, S=7: slope ' in text and 'Terms of equation 8' in text


def test_chooses_s_for_each_map(tool, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['complexity.py', '--sizes', '14', '200x320'])
    tool['main']()
    found = [(row[0], int(row[2])) for row in rows(capsys.readouterr().out)]
    assert found == [
        ('14 x 14', auto_num_regions(14, 14, 64, 1)),
        ('200 x 320', auto_num_regions(200, 320, 64, 1)),
    ]


def test_figure_is_logarithmic_and_exact(tool):
    made = [tool['make_row']((side, side), 64, 4, 'auto') for side in (32, 64)]
    figure = tool['plot'](made, 64, 4, auto=True)
    for axis in figure.axes:
        assert axis.get_xscale() == axis.get_yscale() == 'log'
        assert all(list(line.get_xdata()) == [1024, 4096] for line in axis.lines)
    terms, kinds = ([list(line.get_ydata()) for line in axis.lines] for axis in figure.axes)
    assert [sum(x) for x in zip(*terms[1:])] == terms[0] == kinds[0]
    assert kinds[2][1] == 3 * 4096 * 64**2 + 2 * 4096**2 * 64


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--sizes', '56x'], r'got 56x, not 56 or 200x320'),
        (['--sizes', '1x2x3'], r'got 1x2x3'),
        (['--sizes', '0'], r'--sizes must be from 1 to 100000; got 0'),
        (['--channels', '0'], r'--channels must be from 1 to 100000; got 0'),
        (['--topk', '-1'], r'--topk must be from 1 to 100000; got -1'),
        (['--num-regions', 'many'], r"must be 'auto' or a whole number"),
        (['--num-regions', '2', '--topk', '5'], r'at least --topk, 5; got 2'),
        (['--out', 'figure.gif'], r'--out must end in one of'),
    ],
)
def test_errors_are_one_line(arguments, message, tool, monkeypatch):
    monkeypatch.setattr('sys.argv', ['complexity.py', *arguments])
    with pytest.raises(SystemExit, match=message) as error:
        tool['main']()
    assert re.fullmatch(r'complexity\.py: error: .*', error.value.code)
