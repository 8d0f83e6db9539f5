"""tools/dataset_tools/make_token_labels.py as a user calls it."""

import os

import pytest
from tool_runner import ROOT, run_tool

TOOL = 'dataset_tools/make_token_labels.py'
CONFIG = ROOT / 'configs' / 'biformer_demo.py'


def test_writes_all_maps_and_then_none(checkpoints, healthy, tmp_path):
    command = (CONFIG, checkpoints['cls'], healthy['imagenet'] / 'train')
    options = ('--out', 'labels', '--shape', 64, '--workers', 1, '--batch-size', 3)
    output = run_tool(TOOL, *command, *options, cwd=tmp_path)
    assert output.strip().endswith('4 label maps written to labels, 0 were there')
    images = sorted((healthy['imagenet'] / 'train').rglob('*.jpg'))
    expected = [x.relative_to(healthy['imagenet'] / 'train').with_suffix('.pt') for x in images]
    assert sorted(x.relative_to(tmp_path / 'labels') for x in tmp_path.rglob('*.pt')) == expected


@pytest.mark.slow
def test_goes_on_and_refuses_maps_of_another_grid(checkpoints, healthy, tmp_path):
    command = (CONFIG, checkpoints['cls'], healthy['imagenet'] / 'train', '--out', 'labels')
    run_tool(TOOL, *command, '--shape', 64, cwd=tmp_path)
    output = run_tool(TOOL, *command, '--shape', 64, cwd=tmp_path)
    assert output.strip().endswith('0 label maps written to labels, 4 were there')
    next(tmp_path.rglob('*.pt')).unlink()
    output = run_tool(TOOL, *command, '--shape', 128, cwd=tmp_path, ok=False)
    error = output.strip().splitlines()[-1]
    assert 'must have the grid (4, 4); it has (2, 2); delete it, or give another --out' in error


@pytest.mark.slow
@pytest.mark.parametrize(
    'config, options, message',
    [
        (CONFIG, ['--batch-size', 0], '--batch-size and --workers must be 1 or more; got 0'),
        (CONFIG, ['--device', 'nowhere'], "--device: there is no 'nowhere' here"),
        (ROOT / 'configs' / 'retinanet_biformer_demo.py', [], 'label maps are made by classifiers'),
        (CONFIG, ['--out', 'file'], '--out: file cannot be written (it is a file)'),
    ],
)
def test_wrong_input_is_one_line(config, options, message, checkpoints, healthy, tmp_path):
    (tmp_path / 'file').touch()
    kind = 'det' if 'retinanet' in config.name else 'cls'
    given = (config, checkpoints[kind], healthy['imagenet'] / 'train')
    output = run_tool(
        TOOL, *given, '--out', 'labels', '--shape', 64, *options, cwd=tmp_path, ok=False
    )
    assert output.strip().splitlines()[-1].startswith(f'make_token_labels.py: error: {message}')
    assert 'Traceback' not in output and os.listdir(tmp_path) == ['file']
