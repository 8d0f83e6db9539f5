"""Command lines that parse but are wrong: each tool ends in one sentence, and
leaves every file as it was."""

import collections
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from tool_runner import ROOT, load_module
from wrong_input import CONFIGS, SPELT, TASKS, TOOLS

from biformer_mm.apis.model import build_model
from biformer_mm.datasets import make_shapes
from biformer_mm.deployment.onnx_export import FeaturePath, export_onnx

pytestmark = pytest.mark.faults

SECONDS = 60  # that a case may take
PAIRS = 12  # of wrong arguments, for each tool


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Names of right and wrong files, all in one folder; `root` is it."""
    root = tmp_path_factory.mktemp('place')
    box = root / 'a box with ü'
    for name in (
        'empty',
        'folder.py',
        'folder.pkl',
        'folder.png',
        'tmp',
        'cwd',
        'bad_logs/1/vis_data',
        'binary_logs/1/vis_data',
        'logs/1/vis_data',
    ):
        (box / name).mkdir(parents=True)
    (box / 'bad_logs/1/vis_data/1.json').write_text('{"iter": []}\n[]\n{')
    (box / 'binary_logs/1/vis_data/1.json').write_bytes(b'\0\xff' * 99)
    (box / 'logs/1/vis_data/1.json').write_text('{"loss": 1.0, "iter": 1, "lr": 0.1}\n')
    for name, content in CONFIGS.items():
        (box / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    names = dict(root=root, box=box, image=box / 'image.jpg')
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    # Not imwrite, which takes no such names on every system.
    names['image'].write_bytes(cv2.imencode('.jpg', image)[1].tobytes())
    for suffix in ('pth', 'jpg'):
        (box / f'empty.{suffix}').touch()
        (box / f'junk.{suffix}').write_bytes(b'\x00\xffjunk' * 50)
    (box / 'page.pth').write_text('<html>')
    layouts = dict(det='coco', seg='ade20k', cls='imagenet')
    for task, config in TASKS.items():
        data = make_shapes(
            box / 'data' / task, layouts[task], num_train=16, num_val=16, image_size=64
        )
        names[task] = box / f'{task}.py'
        names[task].write_text(config_text(task, config, data))
        torch.manual_seed(0)
        model, _ = build_model(Config.fromfile(names[task]))
        names[f'{task}_pth'] = box / f'{task}.pth'
        torch.save(dict(state_dict=model.state_dict()), box / f'{task}.pth')
    names['onnx'] = box / 'cls.onnx'  # of the last model
    export_onnx(FeaturePath(model), str(names['onnx']), torch.zeros(1, 3, 64, 64))
    half = names['cls_pth'].read_bytes()
    (box / 'half.pth').write_bytes(half[: len(half) // 2])
    torch.save(dict(state_dict={'a.weight': torch.zeros(2)}), box / 'other.pth')
    torch.save(dict(state_dict={}, code=RunsCode()), box / 'runs_code.pth')
    return {name: str(path) for name, path in names.items()}


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ('was run',)


def config_text(task, config, data):
    """A demo on other data, loaded in its own process."""
    lines = [f"_base_ = {str(ROOT / 'configs' / config)!r} + '.py'"]
    for split in ('train', 'val', 'test'):
        lines.append(
            f'{split}_dataloader = dict(batch_size=2, num_workers=0,'
            ' persistent_workers=False, '
            f"dataset=dict(data_root={str(data)!r} + '/'))"
        )
        if task == 'det' and split != 'train':
            path = data / 'annotations' / 'instances_val.json'
            lines.append(f'{split}_evaluator = dict(ann_file={str(path)!r})')
    return '\n'.join([*lines, 'train_cfg = dict(max_epochs=1)'])


def snapshot(root):
    """Digest of each file, None for a folder, by path."""
    found = {}
    for folder, _, files in os.walk(root):
        found[folder] = None
        for name in files:
            path = os.path.join(folder, name)
            with open(path, 'rb') as file:
                found[path] = hashlib.sha1(file.read()).hexdigest()
    return found


@pytest.fixture
def call(place, monkeypatch, capsys, tmp_path):
    """Run a tool's main(); return exit status or message, and its stderr."""
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    box = Path(place['box'])
    monkeypatch.chdir(box / 'cwd')
    # What a download has got so far may stay, to be resumed.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('TMPDIR', str(box / 'tmp'))
    monkeypatch.setattr(tempfile, 'tempdir', str(box / 'tmp'))
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    MMLogger._instance_dict.clear()  # they write to the last test's output
    # Runs are told apart by the second in which they start.
    seconds = itertools.count(int(time.time()))
    clock = SimpleNamespace(**vars(time))
    clock.time = lambda: float(next(seconds))
    monkeypatch.setattr('mmengine.runner.runner.time', clock)

    def run(tool, words):
        module = load_module(ROOT / 'tools' / tool)
        monkeypatch.setattr(sys, 'argv', [tool, *words])
        signal.signal(signal.SIGALRM, time_is_over)
        signal.alarm(SECONDS)
        try:
            module.main()
            code = 0
        except SystemExit as end:
            code = end.code
        except Exception:
            code = traceback.format_exc()
        finally:
            signal.alarm(0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def time_is_over(*_):
    raise TimeoutError(f'a case took more than {SECONDS} s')


def words_of(place, good, wrong):
    """A command line of which some arguments are replaced."""
    words = []
    for name, values in {**good, **wrong}.items():
        values = [values] if isinstance(values, str) else values
        words += [name] * name.startswith('--')
        words += [fill(value, place) for value in values]
    return words


def fill(text, place):
    for name, path in place.items():
        text = text.replace('{' + name + '}', path)
    return text


def commands(tool):
    """A command line that is right; and what to replace, one argument at a
    time, then two."""
    good, wrong = TOOLS[tool]
    cases = [{name: value} for name, values in wrong.items() for value in values]
    draw = random.Random(tool)
    for _ in range(PAIRS):
        pair = draw.sample(sorted(wrong), 2)
        cases.append({name: draw.choice(wrong[name]) for name in pair})
    return good, cases


def wrongs(tool, case, outcome, changed):
    """What is not as promised, in words."""
    code, out, err = outcome
    message = err.rstrip().splitlines()[-1] if code == 2 else str(code)
    name = os.path.basename(tool)
    start = 'setup: ' if name == 'setup_env.py' else f'{name}: error: '
    if code in (0, None):
        yield 'status 0'
    if not message.startswith(start) or '\n' in message:
        yield f'no sentence: {message[-900:]!r} {err[-300:]!r}'
    elif not any(hint in err + message for hint in hints(case)):
        yield f'the argument is not named: {message!r}'
    if 'Traceback' in err + out:
        yield f'a traceback: {(err + out)[-600:]}'
    if changed:
        yield f'changed: {sorted(changed)[:6]}'


def hints(case):
    """What a message can name an argument by: its option, its value, or the
    fields of a config that it sets."""
    for name, values in case.items():
        yield name.lstrip('-') if name.startswith('--') else name.upper()
        if name.endswith(('config', 'cfg-options')):
            yield from ('the config', '.py')
        for value in [values] if isinstance(values, str) else values:
            field = value.partition('=')[0] if '=' in value else ''
            yield from (x for x in field.split('.') if x)
            value = value.strip('{}').rpartition('/')[2]
            yield SPELT.get(value, value)


@pytest.mark.parametrize('tool', TOOLS)
def test_wrong_arguments_end_in_a_sentence(tool, place, call):
    good, cases = commands(tool)
    before = snapshot(place['root'])
    failures, counts = [], collections.Counter()
    for case in cases:
        outcome = call(tool, words_of(place, good, case))
        after = snapshot(place['root'])
        changed = {
            path
            for path in before.keys() | after.keys()
            if before.get(path, 0) != after.get(path, 0)
        }
        found = list(wrongs(tool, case, outcome, changed))
        counts['wrong' if found else 'right'] += 1
        failures += [f'{case}'[:200] + f': {text}' for text in found]
        before = after
    print(f'\n{tool}: {dict(counts)}')
    assert not failures, '\n'.join(failures)


@pytest.mark.parametrize(
    'tool, case',
    [
        ('train.py', {'--cfg-options': ['model.backbone.topks=x']}),
        ('infer.py', {'--config': '{box}/raises.py'}),
        ('analysis_tools/get_flops.py', {'config': '{box}/exits.py'}),
    ],
)
def test_in_a_process_of_its_own(tool, case, place, tmp_path):
    """As a user sees it: the sentence comes last, with status 1."""
    before = snapshot(place['root'])
    result = subprocess.run(
        [sys.executable, ROOT / 'tools' / tool, *words_of(place, TOOLS[tool][0], case)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    *_, last = result.stderr.splitlines()
    assert result.returncode == 1
    assert last.startswith(f'{os.path.basename(tool)}: error: ')
    assert 'Traceback' not in result.stderr + result.stdout
    assert os.listdir(tmp_path) == [] and snapshot(place['root']) == before
