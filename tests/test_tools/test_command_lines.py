"""What all command lines have in common."""

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import golden
import pytest
import torch
from mmengine.config import Config
from tool_runner import ROOT, load_module

from biformer_mm.apis.model import build_model
from biformer_mm.datasets import make_shapes
from biformer_mm.utils.cli import _OPTIONS, add_shape, markdown_table

TOOLS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'tools').rglob('*.py'))
# Whose examples take minutes, or packages that need not be there; they have
# tests of their own.
NOT_RUN = (
    'tools/demo.py',
    'tools/train.py',
    'tools/misc/setup_env.py',
    'tools/analysis_tools/kernel_resources.py',
    'tools/deployment/export_onnx.py',
    'tools/deployment/quantize_onnx.py',
    'tools/deployment/test_onnx.py',
)
# Of options that several tools have.
SHARED = ('--cfg-options', '--trust', '--device', '--launcher', '--work-dir', '--shape')
# Spellings that one of ours stands for already.
OTHERS = {
    '--out': {'--output', '--out-dir', '--output-dir', '--out-file', '--dst'},
    '--shape': {'--size', '--img-size', '--input-size', '--input-shape'},
    '--checkpoint': {'--ckpt', '--weights', '--model'},
    '--force': {'--overwrite', '--yes'},
    '--device': {'--gpu', '--cuda', '--cpu'},
    '--cfg-options': {'--options', '--override'},
}
PACKAGE = ROOT / 'biformer_mm'
# Modules that only the tools call, and whose texts may name options.
FRONT = [
    *PACKAGE.glob('engine/**/*.py'),
    *(PACKAGE / f'utils/{name}.py' for name in ('cli', 'config_file', 'quiet')),
]
LIBRARY = sorted({*PACKAGE.rglob('*.py')} - {*FRONT})


@pytest.fixture(scope='module')
def help_texts():
    """Of all tools; each takes a second or two to import."""

    def ask(tool):
        result = subprocess.run(
            [sys.executable, tool, '--help'],
            cwd=ROOT,
            env={**os.environ, 'COLUMNS': '200'},
            capture_output=True,
            text=True,
        )
        return tool, result.returncode, result.stdout, result.stderr

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(ask, TOOLS))
    assert [(tool, error) for tool, code, _, error in found if code] == []
    return {tool: text for tool, _, text, _ in found}


def options(text):
    """Option -> its help, from a help text."""
    found = re.findall(r'^  (--[\w-]+)(.*(?:\n {10,}.*)*)', text, re.MULTILINE)
    return {name: ' '.join(rest.split()) for name, rest in found}


def example_of(text):
    return text.rstrip().split('\nexample:\n  ')[1]


@pytest.mark.slow
def test_help_ends_in_an_example_of_the_tool_itself(help_texts):
    for tool, text in help_texts.items():
        example = example_of(text)
        program, script, *arguments = shlex.split(example, comments=True)
        assert (program, script) == ('python', tool)
        for argument in arguments:
            if argument.startswith(('configs/', 'docs/')):
                assert (ROOT / argument).is_file(), example
            elif argument.startswith('--'):
                assert argument in options(text), example


@pytest.fixture
def checkout(tmp_path):
    """A checkout after `make demo`, with a released checkpoint."""
    for name in ('configs', 'docs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    make_shapes(tmp_path / 'data/shapes/coco', num_train=8, num_val=2, image_size=64)
    logs = tmp_path / 'work_dirs/retinanet_biformer_demo/1/vis_data'
    logs.mkdir(parents=True)
    (logs / '1.json').write_text('{"loss": 1.0, "iter": 1, "lr": 0.1}\n')
    make_shapes(tmp_path / 'data/shapes/imagenet', 'imagenet', 4, 2, image_size=64)
    for name in ('retinanet_biformer_demo', 'biformer_demo'):
        model, _ = build_model(Config.fromfile(ROOT / f'configs/{name}.py'))
        path = tmp_path / 'work_dirs' / name / 'epoch_16.pth'
        path.parent.mkdir(exist_ok=True)
        torch.save(dict(state_dict=model.state_dict()), path)
    backbone = golden.section(golden.load('backbone_state'), 'state')
    weights = {f'backbone.{name}': value for name, value in backbone.items()}
    weights['decode_head.conv_seg.weight'] = torch.zeros(150, 512, 1, 1)
    torch.save(dict(state_dict=weights), tmp_path / 'upernet_biformer_s.pth')
    return tmp_path


@pytest.mark.slow
def test_examples_work_as_printed(help_texts, checkout):
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']])

    def run(tool):
        result = subprocess.run(
            example_of(help_texts[tool]),
            shell=True,
            cwd=checkout,
            env={**os.environ, 'PATH': path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return tool, result.returncode, result.stdout[-2000:]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, sorted({*TOOLS} - {*NOT_RUN})))
    assert [result for result in found if result[1]] == []
    for made in (
        'complexity.png',
        'curves.png',
        'problems.json',
        'pictures',
        'outputs/routing/demo_stage3_block2.png',
        'outputs/attention_patterns.png',
        'outputs/000000.jpg.json',
        'data/shapes/token_labels/star',
    ):
        assert (checkout / made).exists(), made


@pytest.mark.slow
def test_shared_options_are_the_same_everywhere(help_texts):
    for option in SHARED:
        found = {options(text)[option] for text in help_texts.values() if option in options(text)}
        assert len(found) == 1, option


@pytest.mark.slow
def test_no_option_has_two_spellings(help_texts):
    for tool, text in help_texts.items():
        for ours, others in OTHERS.items():
            assert not others & set(options(text)), (tool, ours)


def test_the_library_names_no_options():
    found = [path for path in LIBRARY if re.search(r'(?<!-)--[a-z]', path.read_text())]
    assert not found


def test_arguments_that_tools_print_as_options_are_in_texts_of_the_library():
    nodes = [node for path in LIBRARY for node in ast.walk(ast.parse(path.read_text()))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    arguments = list(_OPTIONS)
    for tool in TOOLS:
        if '\nOPTIONS = {' in (ROOT / tool).read_text():
            arguments += load_module(ROOT / tool).OPTIONS
    assert 'force=True' in arguments
    for argument in arguments:
        assert any(isinstance(text, str) and argument in text for text in texts), argument


def test_unknown_options_are_refused_with_the_usage():
    tool = 'tools/analysis_tools/complexity.py'
    result = subprocess.run(
        [sys.executable, tool, '--sizs', '3'], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2 and 'usage:' in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('words, size', [(['64'], (64, 64)), (['800', '1280'], (800, 1280))])
def test_shape(words, size):
    parser = argparse.ArgumentParser()
    add_shape(parser)
    assert parser.parse_args(['--shape', *words]).shape == size


@pytest.mark.parametrize('words', ['1 2 3', '0', '64 -1'])
def test_wrong_shapes_are_refused_with_the_usage(words, capsys):
    parser = argparse.ArgumentParser()
    add_shape(parser)
    with pytest.raises(SystemExit) as error:
        parser.parse_args(['--shape', *words.split()])
    assert error.value.code == 2
    assert capsys.readouterr().err.endswith(
        'error: --shape takes a height and a width in pixels, or the side of '
        f'a square; got {words}\n'
    )


def test_tables_are_aligned():
    rows = [('part', 'parameters'), ('a long name', '1')]
    assert markdown_table(rows, left=1) == (
        '| part        |   parameters |\n'
        '|:------------|-------------:|\n'
        '| a long name |            1 |'
    )


def test_a_reader_may_stop_reading():
    process = subprocess.Popen(
        [sys.executable, 'tools/analysis_tools/complexity.py'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ''
    assert process.wait() == 0


def test_names_of_files_need_not_be_utf8():
    code = 'from biformer_mm.utils.cli import print_report\nprint_report("\\udcff.jpg")'
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env={**os.environ, 'PYTHONIOENCODING': 'utf-8'},
        capture_output=True,
        text=True,
    )
    assert result.stdout == '\\udcff.jpg\n', result.stderr


def test_without_triton_its_tool_says_so():
    code = (
        "import runpy, sys; sys.modules['triton'] = None; "
        "runpy.run_path('tools/analysis_tools/kernel_resources.py', "
        "run_name='__main__')"
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(  # torch warns before
        'kernel_resources.py: error: Triton 3 for NVIDIA GPUs must be installed ('
    )


def test_demo_leaves_what_is_in_the_place_of_its_data(tmp_path, monkeypatch):
    demo = load_module(ROOT / 'tools' / 'demo.py')
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['demo.py'])
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / 'data/shapes/coco/photo.jpg'
    photo.parent.mkdir(parents=True)
    photo.touch()
    with pytest.raises(
        SystemExit,
        match='^demo.py: error: data/shapes/coco must be free .*; move away what is there',
    ) as error:
        demo.main()
    assert '\n' not in error.value.code
    assert [*photo.parent.iterdir()] == [photo]
