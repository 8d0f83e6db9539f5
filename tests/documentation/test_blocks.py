"""Each block of commands, Python and configs is run, or says why not."""

import pytest
from documentation.blocks import BLOCKS, PAGES, RUN, find_faults, read_blocks, runnable
from tool_runner import ROOT


@pytest.mark.parametrize('page', [str(p.relative_to(ROOT)) for p in PAGES])
def test_each_block_is_run_or_says_why_not(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    assert [f'{page}:{line} {fault}' for line, fault in find_faults(page, text)] == []


def test_what_is_not_marked_is_run():
    """By the tests of this folder, which take their cases from here."""
    groups = [runnable('bash'), runnable('python'), runnable('python', config=True)]
    run = [block for group in groups for block in group]
    assert sorted(block.name for block in run) == sorted(
        block.name for block in BLOCKS if block.language in RUN and block.runnable
    )
    assert all(len(group) > 8 for group in groups)


@pytest.mark.parametrize(
    'text, faults',
    [
        ('```bash\nls\n```\n', []),
        ('```\n12 images\n```\n', []),
        ('<!-- not run: needs a GPU -->\n```bash\nls\n```\n', []),
        ('<!-- not run, pip: network -->\n```bash\npip x\nls\n```\n', []),
        ('<!-- not run: -->\n```bash\nls\n```\n', ['is not run, and no reason is given']),
        ('<!-- not run -->\n```bash\nls\n```\n', ['is not run, and no reason is given']),
        (
            '<!-- not run: needs a GPU -->\n\n```bash\nls\n```\n',
            ['has a comment <!-- not run --> above no block'],
        ),
        ('<!-- not run, ps: network -->\n```bash\nls\n```\n', ['has no line with ps']),
        ('<!-- not run, ls: network -->\n```bash\nls\n# a\n```\n', ['has no line that is run']),
        ('```\npython tools/train.py CONFIG\n```\n', ['has commands: say ```bash']),
        ('```shell\nls\n```\n', None),
    ],
)
def test_faults_are_found(text, faults):
    found = [fault for _, fault in find_faults('a.md', text)]
    if faults is None:
        assert len(found) == 1 and "is in 'shell'" in found[0]
    else:
        assert found == faults


def test_lines_that_are_left_out():
    """With the lines that they go on in."""
    (block,) = read_blocks(
        'a.md', '<!-- not run, srun: Slurm -->\n```bash\nsrun \\\n  a\nls\ncat\n```\n'
    )
    assert block.runnable == 'ls\ncat\n'
    assert block.name == 'a.md:2'


@pytest.mark.parametrize(
    'text, is_config',
    [
        ("_base_ = 'a.py'\nmodel = dict()\n", True),
        ('import torch\nmodel = torch.nn.Linear(1, 1)\n', False),
    ],
)
def test_configs_and_code_are_told_apart(text, is_config):
    (block,) = read_blocks('a.md', f'```python\n{text}```\n')
    assert block.is_config == is_config
