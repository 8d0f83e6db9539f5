"""run_gpu.sh with steps that fail, and with packages that are missing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tool_runner import ROOT

BENCHMARKS = ROOT / 'benchmarks'
# Puts a Python's modules out of sight.
HIDE = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec


class Finder:

    def __call__(self, name, path=None, target=None):
        if name.partition('.')[0] not in {names}:
            return find_spec(name, path, target)


PathFinder.find_spec = Finder()
"""

STEPS = dict(
    good="""
def run(step, *values):
    step.add(*(dict(value=value, error=None) for value in values))
""",
    raises="""
def run(step):
    step.add(dict(value='before', error=None))
    with step.case(value='case') as row:
        row['half'] = 'done'
        raise TypeError('no such kernel')
    raise ValueError('all is lost')
""",
    killed="""
import os, signal
def run(step):
    step.add(dict(value='before', error=None))
    os.kill(os.getpid(), signal.SIGKILL)
""",
    hangs="""
import signal, subprocess, time
def run(step):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(['sleep', '1000'])
    step.add(dict(value=child.pid, error=None))
    time.sleep(1000)
""",
    broken_table="""
def run(step):
    step.add(dict(value=1, error=None))
def lines(rows):
    return rows[7]
""",
)
LINES = """
def lines(rows):
    return [str([row['value'] for row in rows])]
"""


@pytest.fixture
def steps(tmp_path, monkeypatch, load, environment):
    """The module of the plan, with steps of the test's own to run."""
    folder = tmp_path / 'steps'
    folder.mkdir()
    for name, text in STEPS.items():
        (folder / f'{name}.py').write_text((LINES if 'def lines' not in text else '') + text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv('PYTHONPATH', environment(folder)['PYTHONPATH'])
    yield load('gpu.__main__')
    for name in STEPS:
        sys.modules.pop(name, None)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0] != 'Z'


def test_a_step_that_fails_costs_no_other_its_results(steps, tmp_path, capsys, monkeypatch):
    end = steps.end
    monkeypatch.setattr(steps, 'end', lambda process: end(process, grace=1))
    out = tmp_path / 'out'
    out.mkdir()
    plan = [
        steps.Part(60, 'good', ('1', '2')),
        steps.Part(60, 'raises'),
        steps.Part(60, 'killed'),
        steps.Part(6, 'hangs'),
        steps.Part(60, 'broken_table'),
        steps.Part(60, 'missing'),
        steps.Part(60, 'good', ('3',)),
    ]
    steps.run_plan(plan, out, dry=True)
    data = json.loads((out / 'results.json').read_text())
    assert [(row['step'], row['error']) for row in data['steps']] == [
        ('good 1 2', ''),
        ('raises', 'ended with status 1'),
        ('killed', f'ended with status {-signal.SIGKILL}'),
        ('hangs', 'stopped after 6 s'),
        ('broken_table', ''),
        ('missing', 'ended with status 1'),
        ('good 3', ''),
    ]
    assert [row['value'] for row in data['good']] == ['1', '2', '3']
    assert data['raises'] == [
        dict(value='before', error=None),
        dict(value='case', half='done', error='TypeError: no such kernel'),
    ]
    assert [row['value'] for row in data['killed']] == ['before']
    assert not is_alive(data['hangs'][0]['value'])
    printed = capsys.readouterr().out
    assert "['1', '2']\n" in printed and "['3']\n" in printed
    failed = [line for line in printed.splitlines() if line.startswith('FAILED: ')]
    assert failed == [
        'FAILED: steps, step=raises: ended with status 1 (and 1 more)',
        'FAILED: steps, step=killed: ended with status -9',
        'FAILED: steps, step=hangs: stopped after 6 s',
        'FAILED: raises, value=case, half=done: TypeError: no such kernel',
    ]
    log = (out / 'log.txt').read_text()
    assert 'ValueError: all is lost' in log and 'IndexError' in log
    assert sorted(path.name for path in out.iterdir()) == ['log.txt', 'results.json']


def test_no_step_starts_or_lasts_beyond_the_limit(steps, tmp_path, monkeypatch):
    end = steps.end
    monkeypatch.setattr(steps, 'end', lambda process: end(process, grace=1))
    monkeypatch.setattr(steps, 'LIMIT', 3)
    plan = [
        steps.Part(60, 'hangs'),
        steps.Part(60, 'good', ('1',)),
        steps.Part(60, 'good', ('2',), extra=True),
    ]
    monkeypatch.setattr(steps, 'PLANNED', 60)
    start = time.monotonic()
    steps.run_plan(plan, tmp_path, dry=True)
    assert time.monotonic() - start < 20
    data = json.loads((tmp_path / 'results.json').read_text())
    # Of an extra step, for which there is no time, nothing is said.
    assert [(row['step'], row['error']) for row in data['steps']] == [
        ('hangs', 'stopped after 3 s'),
        ('good 1', 'no time was left'),
    ]
    assert 'good' not in data


def test_the_plan_fits_its_limits(load):
    main = load('gpu.__main__')
    assert (
        sum(part.seconds for part in main.PLAN if not part.extra) <= main.PLANNED < main.LIMIT < 480
    )


def run_hidden(environment, folder, names, *command):
    """Run Python where modules cannot be found."""
    (folder / 'sitecustomize.py').write_text(HIDE.format(names=names))
    env = dict(environment(folder), TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_without_timm_biformer_is_measured(tmp_path, environment):
    pytest.importorskip('triton', minversion='3.0')
    out = tmp_path / 'out'
    out.mkdir()
    result = run_hidden(
        environment,
        tmp_path,
        {'timm', 'mmengine', 'mmcv', 'mmdet'},
        '-m',
        'gpu.step',
        out,
        2e9,
        'gpu.backbones',
        'stl',
        '--dry',
    )
    assert result.returncode == 0, result.stdout[-3000:]
    rows = json.loads((out / 'results.json').read_text())['backbones']
    assert len(rows) == 8
    for row in rows:
        swin = row['model'].startswith('swin')
        assert row['error'] == ("ModuleNotFoundError: No module named 'timm'" if swin else None)
        assert ('seconds' in row) != swin


@pytest.mark.slow
def test_backbones_are_compared_without_mmengine(tmp_path, environment):
    result = run_hidden(
        environment,
        tmp_path,
        {'mmengine', 'mmcv', 'mmdet'},
        BENCHMARKS / 'bench_backbone.py',
        '--size',
        64,
        '--arch',
        'tiny',
        '--others',
        'biformer:tiny,num_regions=7',
        '--num-regions',
        4,
        '--repeats',
        1,
        '--threads',
        1,
        '--mode',
        'inference',
        '--device',
        'cpu',
        '--out',
        tmp_path / 'out',
    )
    assert result.returncode == 0, result.stdout[-3000:]
    (path,) = tmp_path.glob('out/*/*.json')
    rows = json.loads(path.read_text())['rows']
    assert [row['error'] for row in rows] == [None, None]
