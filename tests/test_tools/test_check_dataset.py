"""tools/misc/check_dataset.py as a user calls it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from broken_data import IMAGES, annotations
from tool_runner import ROOT, load_module, run_tool

TOOL = ROOT / 'tools' / 'misc' / 'check_dataset.py'
CONFIG = ROOT / 'configs' / 'retinanet_biformer_demo.py'


def options(root):
    return [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={root}',
        f'val_dataloader.dataset.data_root={root}',
        f'val_evaluator.ann_file={root}/annotations/instances_val.json',
    ]


def check(root, *args, ok=True, cwd=None):
    """Standard output, its lines, of a run that must (not) end in 0."""
    result = subprocess.run(
        [sys.executable, TOOL, CONFIG, *args, *options(root)],
        cwd=cwd or root.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == (0 if ok else 1), result.stderr[-5000:]
    assert 'Traceback' not in result.stderr
    return result.stdout.splitlines()


@pytest.fixture
def root(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / 'data')


def test_problems_are_listed_by_file_and_as_json(root, tmp_path):
    IMAGES['grey'](root / 'train' / '000001.jpg')
    IMAGES['cmyk'](root / 'train' / '000000.jpg')
    IMAGES['truncated'](root / 'val' / '000002.jpg')
    lines = check(root, '--json', 'new/list.json', ok=False)
    expected = [
        ('note', 'grey', 'train', f'{root}/train/000001.jpg'),
        ('warning', 'cmyk', 'train', f'{root}/train/000000.jpg'),
        ('error', 'truncated', 'val', f'{root}/val/000002.jpg'),
    ]
    # What frameworks print when they are imported may come before.
    listed = lines[-7:-4]
    assert [tuple(line.partition(': ')[0].split()) for line in listed] == expected
    assert lines[-4:] == [
        'notes: grey 1',
        'warnings: cmyk 1',
        'errors: truncated 1',
        '12 images read, 3 problems: 1 error, 1 warning, 1 note',
    ]
    assert os.listdir(tmp_path / 'new') == ['list.json']
    content = json.loads((tmp_path / 'new' / 'list.json').read_text())
    assert content['images'] == 12
    assert [
        tuple(p[key] for key in ('severity', 'kind', 'split', 'file')) for p in content['problems']
    ] == expected
    assert all(p['detail'] for p in content['problems'])


@pytest.mark.slow
def test_warnings_fail_only_where_that_is_asked_for(root):
    IMAGES['cmyk'](root / 'train' / '000000.jpg')
    assert check(root)[-2] == 'warnings: cmyk 1'
    assert check(root, '--strict', ok=False)[-2] == 'warnings: cmyk 1'


@pytest.mark.slow
def test_notes_never_fail_and_splits_can_be_left_out(root):
    IMAGES['grey'](root / 'train' / '000000.jpg')
    with annotations(root / 'annotations' / 'instances_train.json') as content:
        content['annotations'].pop(0)['id']
    IMAGES['missing'](root / 'val' / '000000.jpg')
    lines = check(root, '--strict', '--splits', 'train')
    assert lines[-2:] == ['notes: grey 1', '8 images read, 1 problem: 1 note']


def test_many_problems_are_counted_and_all_are_printed_where_asked_for(capsys):
    tool = load_module(TOOL)
    found = [
        dict(severity='note', kind='grey', split='train', file=f'{file}.jpg', detail=str(number))
        for file in range(22)
        for number in range(7)
    ]
    tool.report(found, '22 images read', everything=False)
    lines = capsys.readouterr().out.splitlines()
    start = 'note    grey            train'
    assert lines[:6] == [
        *(f'{start} 0.jpg: {number}' for number in range(5)),
        f'{start} 0.jpg: and 2 more (--all)',
    ]
    assert lines[6 * 20 :] == [
        f'{start} and 14 more in 2 other files (--all)',
        'notes: grey 154',
        '22 images read, 154 problems: 154 notes',
    ]
    tool.report(found, '22 images read', everything=True)
    assert len(capsys.readouterr().out.splitlines()) == 154 + 2


def test_what_is_allowed_is_a_note(root):
    IMAGES['truncated'](root / 'val' / '000002.jpg')
    lines = check(root, '--allow', 'truncated')
    assert lines[-2:] == ['notes: truncated 1', '12 images read, 1 problem: 1 note']


def test_rules_to_allow_must_exist(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['check_dataset.py', str(CONFIG), '--allow', 'trunkated'])
    with pytest.raises(SystemExit):
        load_module(TOOL).main()
    assert "there is no rule 'trunkated'; did you mean truncated?" in capsys.readouterr().err


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'args, message',
    [
        (['nowhere.py'], 'there is no config nowhere.py'),
        ([CONFIG], 'data not found: data/shapes/coco/'),
        ([CONFIG, '--workers', '0'], '--workers must be 1 or more; got 0'),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(args, message, tmp_path):
    output = run_tool('misc/check_dataset.py', *args, cwd=tmp_path, ok=False)
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'check_dataset.py: error: {message}')
    assert 'Traceback' not in output
    assert os.listdir(tmp_path) == []


def test_json_that_cannot_be_written_is_one_line(root):
    (root / 'file').touch()
    output = run_tool(
        'misc/check_dataset.py',
        CONFIG,
        '--json',
        root / 'file' / 'list.json',
        *options(root),
        cwd=root,
        ok=False,
    )
    assert 'list.json cannot be written' in output.splitlines()[-1]
    assert 'Traceback' not in output


def test_quick_counts_and_opens_no_picture(root, tmp_path):
    """Pictures that are empty are found by reading them, not by counting."""
    IMAGES['empty-file'](root / 'train' / '000001.jpg')
    IMAGES['missing'](root / 'val' / '000002.jpg')
    lines = check(root, '--quick', '--json', 'list.json', ok=False)
    assert lines[-3:] == [
        f'error   missing         val   {root}/val: has 3 of 4 pictures; '
        'missing 1, such as 000002.jpg',
        'errors: missing 1',
        '11 images found, 1 problem: 1 error',
    ]
    content = json.loads((tmp_path / 'list.json').read_text())
    assert content['images'] == 11 and len(content['problems']) == 1


@pytest.mark.parametrize(
    'tool, args, split',
    [
        ('misc/check_dataset.py', [], 'train'),
        ('misc/check_dataset.py', ['--quick'], 'val'),
        ('train.py', [], 'train'),
        ('train.py', [], 'val'),
        ('test.py', ['a.pth'], 'test'),
    ],
)
def test_classes_that_are_a_text_are_refused_before_anything_starts(
    tool, args, split, tmp_path, monkeypatch
):
    (tmp_path / 'a.pth').touch()
    option = f'{split}_dataloader.dataset.metainfo.classes'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, 'argv', [tool, str(CONFIG), *args, '--cfg-options', f'{option}=person']
    )
    with pytest.raises(SystemExit) as end:
        load_module(ROOT / 'tools' / tool).main()
    name = os.path.basename(tool)
    assert end.value.code == (
        f'{name}: error: {option} must be a tuple or a list of names, or the '
        "path of a file with one name a line; got the text 'person'; one "
        "class is written with a comma: ('person', )"
    )
    assert os.listdir(tmp_path) == ['a.pth']
