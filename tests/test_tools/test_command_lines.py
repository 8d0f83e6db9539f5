"""What all command lines have in common."""
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tool_runner import ROOT

TOOLS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / 'tools').rglob('*.py'))
try:
    import triton.backends.compiler  # noqa: F401
except ImportError:  # Triton 3, which the tool compiles with, is not there
    TOOLS.remove('tools/analysis_tools/kernel_resources.py')
# Of options that several tools have.
SHARED = ('--cfg-options', '--trust', '--device', '--launcher', '--work-dir')
# Spellings that one of ours stands for already.
OTHERS = {
    '--out': {'--output', '--out-dir', '--output-dir', '--out-file', '--dst'},
    '--shape': {'--size', '--img-size', '--input-size', '--input-shape'},
    '--checkpoint': {'--ckpt', '--weights', '--model'},
    '--force': {'--overwrite', '--yes'},
    '--device': {'--gpu', '--cuda', '--cpu'},
    '--cfg-options': {'--options', '--override'},
}


@pytest.fixture(scope='module')
def help_texts():
    """Of all tools; each takes a second or two to import."""

    def ask(tool):
        result = subprocess.run([sys.executable, tool, '--help'],
                                cwd=ROOT,
                                env={
                                    **os.environ, 'COLUMNS': '200'
                                },
                                capture_output=True,
                                text=True)
        return tool, result.returncode, result.stdout, result.stderr

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(ask, TOOLS))
    assert [(tool, error) for tool, code, _, error in found if code] == []
    return {tool: text for tool, _, text, _ in found}


def options(text):
    """Option -> its help, from a help text."""
    found = re.findall(r'^  (--[\w-]+)(.*(?:\n {10,}.*)*)', text, re.MULTILINE)
    return {name: ' '.join(rest.split()) for name, rest in found}


def test_help_ends_in_an_example_of_the_tool_itself(help_texts):
    for tool, text in help_texts.items():
        example = text.rstrip().split('\nexample:\n  ')[1]
        program, script, *arguments = shlex.split(example)
        assert (program, script) == ('python', tool)
        for argument in arguments:
            if argument.startswith(('configs/', 'docs/')):
                assert (ROOT / argument).is_file(), example
            elif argument.startswith('--'):
                assert argument in options(text), example


def test_shared_options_are_the_same_everywhere(help_texts):
    for option in SHARED:
        found = {
            options(text)[option]
            for text in help_texts.values() if option in options(text)
        }
        assert len(found) == 1, option


def test_no_option_has_two_spellings(help_texts):
    for tool, text in help_texts.items():
        for ours, others in OTHERS.items():
            assert not others & set(options(text)), (tool, ours)


def test_unknown_options_are_refused_with_the_usage():
    tool = 'tools/analysis_tools/complexity.py'
    result = subprocess.run([sys.executable, tool, '--sizs', '3'],
                            cwd=ROOT,
                            capture_output=True,
                            text=True)
    assert result.returncode == 2 and 'usage:' in result.stderr
    assert 'Traceback' not in result.stderr
