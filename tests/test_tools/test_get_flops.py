import re
import runpy

import pytest
from config_checks import CONFIGS
from mmengine.fileio import load as load_file
from mmengine.logging import MMLogger
from tool_runner import ROOT, run_tool

TOOL = 'analysis_tools/get_flops.py'
PUBLISHED = {
    model['Name']: model['Metadata'] for model in load_file(CONFIGS / 'metafile.yml')['Models']
}


@pytest.fixture
def run(monkeypatch):
    """The tool, in this process."""

    def call(*arguments):
        monkeypatch.setattr('sys.argv', ['get_flops.py', *arguments])
        runpy.run_path(str(ROOT / 'tools' / TOOL), run_name='__main__')

    logger = MMLogger.get_current_instance()
    level = logger.level
    yield call
    logger.setLevel(level)  # of all tests' one logger


def rows(output):
    """Numbers of the table by its first column."""
    found = {}
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if re.fullmatch(r'[\d,]+', cells[-1]):
            found[cells[0]] = [int(x.replace(',', '')) for x in cells[1:]]
    return found


@pytest.mark.parametrize(
    'name, parts',
    [
        ('biformer_t_in1k', ['head']),
        ('semantic_fpn_biformer_t_80k', ['neck', 'decode_head']),
        (
            'mask_rcnn_biformer_t_1x',
            ['neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head'],
        ),
    ],
)
def test_totals_are_the_published_ones(name, parts, run, capsys):
    size = PUBLISHED[name]['Input Size'].split('x')
    config = CONFIGS / f'{name}.py'
    run(str(config), '--shape', *size)
    output = capsys.readouterr().out
    assert f'{config}, one image of {size[0]} x {size[1]} ' in output
    assert ('for 1000 boxes and 100 masks' in output) == ('rcnn' in name)
    found = rows(output)
    assert list(found) == ['stem', 'stage 1', 'stage 2', 'stage 3', 'stage 4', *parts, 'total']
    total = found.pop('total')
    assert total == [sum(column) for column in zip(*found.values())]
    assert total[:2] == [PUBLISHED[name]['Parameters'], PUBLISHED[name]['FLOPs']]
    assert all(all(row) for row in found.values())


@pytest.mark.slow
def test_one_number_is_a_square(tmp_path):
    output = run_tool(
        TOOL,
        CONFIGS / 'upernet_biformer_demo.py',
        '--shape',
        64,
        '--cfg-options',
        'model.backbone.num_regions=8',
        cwd=tmp_path,
    )
    assert 'one image of 64 x 64 (height x width)' in output
    assert re.search(r'no convolution .* in inference: auxiliary_head', output)
    assert 'INFO' not in output


@pytest.mark.parametrize(
    'config, arguments, message',
    [
        (
            'biformer_demo',
            '--shape 31 64',
            r'must allow inference on 31 x 64 .* at least 32; got .*31, 64',
        ),
        (
            'biformer_demo',
            '--shape 64 --cfg-options model.backbone.num_regions=2',
            r'model of .*: topk must be between 1 and',
        ),
        ('biformer_demos', '--shape 64', r'no config .*did you mean .*biformer_demo\.py'),
        ('_base_/demo_schedule', '--shape 64', r'must have a model'),
    ],
)
def test_errors_are_one_line(config, arguments, message, run):
    with pytest.raises(SystemExit) as error:
        run(str(CONFIGS / f'{config}.py'), *arguments.split())
    assert re.fullmatch(rf'get_flops\.py: error: .*{message}.*', error.value.code)
