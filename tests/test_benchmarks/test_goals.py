"""The table of goals, from made-up results of run_gpu.sh."""

import json
import subprocess
import sys

import pytest
from tool_runner import ROOT


def made_up(over_dense, over_floor, over_swin, memory):
    op = [
        dict(
            dtype='bf16',
            size=size,
            mode='forward+backward',
            error=None,
            bound='memory',
            time_over_dense=over_dense,
            time_over_floor=over_floor,
        )
        for size in ('224', '512', '800x1333')
    ]
    # What is no goal's business.
    op += [
        dict(op[0], mode='forward', time_over_dense=99.0, time_over_floor=99.0),
        dict(op[0], dtype='fp32', time_over_dense=99.0, time_over_floor=99.0),
        dict(op[0], error='wrong', time_over_dense=99.0, time_over_floor=99.0),
    ]
    op += [dict(op[1], bound='compute', time_over_floor=99.0)]
    backbones = [
        dict(
            network=network,
            case=case,
            mode=case.split()[0],
            model='triton',
            error=None,
            time_over_swin=over_swin,
            time_over_fused_swin=over_swin,
            memory_over_gather=memory,
        )
        for network, case in (
            ('stl', 'inference'),
            ('stl', 'training'),
            ('small', 'inference in a graph'),
            ('small', 'training'),
        )
    ]
    return dict(
        settings=dict(dtype='bf16'),
        steps=[],
        op=op,
        backbones=backbones + [dict(backbones[0], model='swin', case='x')],
    )


def verdicts(text):
    rows = [row.split(' | ') for row in text.splitlines()[2:]]
    return {row[0].strip('| '): row[-1].strip(' |') for row in rows}


def test_goals_are_met_or_missed(load):
    summarize = load('goals').summarize
    met = verdicts(summarize(made_up(0.9, 1.9, 0.8, 0.5)))
    assert len(met) == 11 and set(met.values()) == {'met'}
    missed = verdicts(summarize(made_up(2.1, 2.1, 1.5, 0.7)))
    assert set(missed.values()) == {'missed'}


@pytest.mark.parametrize(
    'figures, goal',
    [
        (dict(over_dense=1.4), 'op at 512, both passes: time / dense <= 1.0'),
        (dict(over_floor=2.1), 'op, both passes, bound by memory: time / floor <= 2'),
        (dict(over_swin=1 / 1.1), 'STL, 224, inference: images/s / Swin-T >= 1.15'),
        (dict(memory=0.61), 'S and STL, training: memory / gather <= 0.6'),
    ],
)
def test_each_bound_is_its_own(load, figures, goal):
    results = made_up(
        **{**dict(over_dense=1.0, over_floor=2.0, over_swin=0.8, memory=0.6), **figures}
    )
    found = verdicts(load('goals').summarize(results))
    missed = {name for name, verdict in found.items() if verdict == 'missed'}
    fused = goal.replace('Swin-T', 'fused Swin-T')
    assert missed == {goal, fused}


def test_the_worst_value_decides(load):
    results = made_up(0.5, 1.0, 0.5, 0.5)
    results['op'].append(dict(results['op'][0], time_over_dense=2.5))
    row = load('goals').summarize(results).splitlines()[4]
    assert row == ('| op at 224, both passes: time / dense <= 2.0 | 0.50 to 2.50 | missed |')


def test_goals_say_what_was_not_measured(load, tmp_path):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(dict(settings=dict(dtype='bf16'))))
    text = subprocess.run(
        [sys.executable, str(ROOT / 'benchmarks' / 'goals.py'), str(path)],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout
    assert set(verdicts(text).values()) == {'not measured'}
    summarize = load('goals').summarize
    assert summarize(json.loads(path.read_text()), measured=True) == ''
