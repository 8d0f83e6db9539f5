"""Every recipe through every tool, on small data in the layouts that it names.

run.py has what one process does, cells.py the tools and what they promise, and
refusals.py where they must refuse.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
from config_checks import NAMES
from matrix.cells import COLUMNS
from matrix.processes import start
from matrix.refusals import OLD_TORCH, REFUSALS, find_refusal
from matrix.table import last_line, needs_deepspeed, read_page, read_table, to_cell, write_table
from matrix.tiers import CONFIGS


def parameters():
    for config in CONFIGS:
        marked = [pytest.mark.slow]
        if needs_deepspeed(config):
            marked.append(pytest.mark.skip(reason='deepspeed is missing'))
        for column in COLUMNS:
            yield pytest.param(config, column, marks=marked)


@pytest.fixture(scope='module')
def outcomes(request, tmp_path_factory):
    """Results of the configs that are to be tested, as they come."""
    wanted = [
        item.callspec.params['config']
        for item in request.session.items
        if item.path == request.path
        and not item.get_closest_marker('skip')
        and 'config' in getattr(item, 'fixturenames', ())
    ]
    wanted = wanted or [x for x in CONFIGS if not needs_deepspeed(x)]
    with ThreadPoolExecutor(2) as pool:
        yield start(pool, dict.fromkeys(wanted), tmp_path_factory.mktemp('x'))
        pool.shutdown(cancel_futures=True)  # where the tests were ended


@pytest.mark.parametrize('config, column', list(parameters()))
def test_tool_works_or_refuses(config, column, outcomes):
    outcome = outcomes[config].result()[column]
    if find_refusal(config, column):
        assert 'Traceback' not in outcome['output'], outcome['output'][-3000:]
        assert to_cell(outcome), last_line(outcome['output'])
    else:
        assert outcome['status'] == 0, outcome['output'][-3000:]
        assert not outcome['broken']


newer = pytest.mark.skipif(OLD_TORCH, reason='the page is of versions that export')


@newer
@pytest.mark.slow
def test_table_in_the_page_is_what_was_run(outcomes):
    page = read_table(read_page())
    for config, future in outcomes.items():
        found = {k: to_cell(x) for k, x in future.result().items()}
        assert page[config] == found, config


@newer
def test_table_in_the_page_is_complete():
    page = read_table(read_page())
    assert sorted(page) == NAMES
    for config, cells in page.items():
        assert list(cells) == list(COLUMNS), config
        for column, said in cells.items():
            assert bool(find_refusal(config, column)) == (said != 'works')


def test_table_is_read_as_written():
    cells = {
        'a': {'train': 'works', 'tta': 'test.py: error: no'},
        'b': {'train': 'train.py: error: too', 'tta': 'test.py: error: no'}
    }  # fmt: skip
    text = write_table(cells)
    assert read_table(text) == cells
    assert '1. `test.py: error: no`' in text and 'refused (2)' in text


@pytest.mark.parametrize('refusal', REFUSALS, ids=lambda r: r.column)
def test_refusal_is_of_some_cell(refusal):
    assert any(find_refusal(config, column) is refusal for config in NAMES for column in COLUMNS)


def test_outcome_that_is_neither_is_not_told_as_either():
    good = dict(config='biformer_t_in1k', column='tta', status=0, broken='',
                output='')  # fmt: skip
    assert to_cell(good) == 'works'
    for other in (
        dict(status=1),
        dict(broken='no picture'),
        dict(column='export_onnx', config='dino_biformer_s_1x'),
    ):
        with pytest.raises(ValueError):
            to_cell({**good, **other})
