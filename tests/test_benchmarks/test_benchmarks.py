import json
import os
import subprocess
import sys

import pytest
import torch
from tool_runner import ROOT

BENCHMARKS = ROOT / 'benchmarks'
SMALL = ['--size', '64', '--repeats', '2', '--threads', '1']


def run(script, *args, ok=True):
    """Run a benchmark as a user does; its (stdout, stderr)."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    env.pop('TRITON_INTERPRET', None)
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, args)],
        env=env,
        text=True,
        capture_output=True,
    )
    assert (result.returncode == 0) == ok, result.stderr[-3000:]
    return result.stdout, result.stderr


def only_result(folder):
    """The one result of a folder: (JSON, Markdown)."""
    (path,) = folder.glob('*/*.json')
    text = path.with_suffix('.md').read_text()
    assert '/' + str(folder).strip('/') not in path.read_text() + text
    return json.loads(path.read_text()), text


@pytest.fixture(scope='module')
def attention(tmp_path_factory):
    out = tmp_path_factory.mktemp('attention')
    run(
        'bench_attention.py',
        *SMALL,
        '--device',
        'cpu',
        '--backend',
        'sdpa',
        'reference',
        '--out',
        out,
    )
    return only_result(out)


@pytest.fixture(scope='module')
def growth(tmp_path_factory):
    out = tmp_path_factory.mktemp('growth')
    run(
        'bench_attention.py',
        '--growth',
        '--size',
        64,
        128,
        '--repeats',
        1,
        '--device',
        'cpu',
        '--backend',
        'sdpa',
        '--out',
        out,
    )
    return only_result(out)


@pytest.fixture(scope='module')
def backbone(tmp_path_factory):
    out = tmp_path_factory.mktemp('backbone')
    run(
        'bench_backbone.py',
        *SMALL,
        '--device',
        'cpu',
        '--arch',
        'tiny',
        '--others',
        'biformer:tiny,num_regions=7',
        '--num-regions',
        4,
        '--backend',
        'sdpa',
        '--out',
        out,
    )
    return only_result(out)


def check_environment(result):
    about = result['environment']
    assert about['torch'] == torch.__version__
    assert about['command'].startswith('python benchmarks/bench_')
    assert {'gpu', 'cpu', 'threads', 'python', 'triton', 'date'} <= set(about)


def check_spread(spread, repeats):
    assert len(spread['values']) == repeats
    assert 0 < spread['min'] <= spread['median'] <= spread['max']


@pytest.mark.slow
def test_attention_measures_every_stage_and_backend(attention):
    result, text = attention
    check_environment(result)
    found = [(row['stage'], row['backend']) for row in result['rows']]
    assert found == [
        (stage, backend)
        for stage in (1, 2, 3, 4)
        for backend in ('dense', 'gathered', 'sdpa', 'reference')
    ]
    for row in result['rows']:
        assert row['error'] is None
        for mode in ('forward', 'forward+backward'):
            check_spread(row[mode]['seconds'], repeats=2)
            assert row[mode]['peak_memory'] >= 0
        assert f'| stage {row["stage"]}: {row["backend"]} |' in text


def test_attention_reports_errors_against_the_reference(attention):
    for row in attention[0]['rows']:
        if row['backend'] in ('sdpa', 'reference'):
            assert set(row['errors']) == {'o', 'dq', 'dk', 'dv'}
            assert all(0 < x < 1e-5 for x in row['errors'].values())


def test_attention_ratio_is_the_quotient_of_the_medians(attention):
    rows = attention[0]['rows']
    for row, dense in zip(rows[:4], rows[:1] * 4):
        assert row['forward']['time_over_dense'] == pytest.approx(
            row['forward']['seconds']['median'] / dense['forward']['seconds']['median']
        )


@pytest.mark.parametrize('broken', ['output', 'gradient', 'nan'])
def test_a_wrong_backend_gets_no_time(load, monkeypatch, broken):
    bench = load('bench_attention')
    problems = load('problems')
    right = problems.region_attention

    def wrong(query, key, value, *args, backend, **kwargs):
        out = right(query, key, value, *args, backend=backend, **kwargs)
        if backend != 'sdpa':
            return out
        return {
            'output': out * 1.01,
            'gradient': out + (value - value.detach()) * 0.01,
            'nan': out * float('nan'),
        }[broken]

    monkeypatch.setattr(problems, 'region_attention', wrong)
    monkeypatch.setattr(load('op_costs'), 'memory', lambda *args: 0)
    monkeypatch.setattr(sys, 'argv', ['bench_attention.py', '--device', 'cpu', '--repeats=1'])
    problem = problems.Problem(1, 8, 8, 64, 2, 1)
    rows = {
        row['backend']: row
        for row in bench.bench(problem, ['sdpa', 'reference'], bench.parse_args())
    }
    assert 'wrong' in rows['sdpa']['error']
    assert 'forward' not in rows['sdpa']
    assert rows['reference']['error'] is None
    assert 'forward' in rows['reference']


def test_dense_attention_has_as_many_pairs(load):
    problems = load('problems')
    problem = problems.Problem(2, 50, 84, 64, 16, 4)
    pairs = 50 * 84 * 4 * problem.region[0] * problem.region[1]
    inputs = problems.make_yardstick(problem, 'dense', 'cpu', 'fp32')
    assert inputs.query.shape[:2] == (2, 2)
    assert inputs.query.shape[2] * inputs.key.shape[2] == pytest.approx(pairs, rel=0.01)


def test_stage_problems_are_the_layers_of_the_backbone(load):
    small = load('problems').stage_problems((800, 1333), 16, 'small', 1)
    assert [x[1:6] for x in small] == [
        (200, 334, 64, 16, 1),
        (100, 167, 128, 16, 4),
        (50, 84, 256, 16, 16),
        (25, 42, 512, 1, None),
    ]
    assert [x.region for x in small] == [(13, 21), (7, 11), (4, 6), (25, 42)]
    assert [x.num_heads for x in small] == [2, 4, 8, 8]
    assert small[0].valid_size == (200, 334) and small[3].valid_size is None


def test_memory_counts_what_the_call_uses(load):
    problem = load('problems').Problem(1, 256, 256, 64, 8, 1)
    out = 256 * 256 * 64 * 4
    used = load('op_costs').memory(problem, 'sdpa', 'forward', 'cpu', 'fp32', False)
    assert 2.9 * out < used < 6 * out  # keys and values, gathered, and output


def test_growth_measures_every_size(growth):
    result, text = growth
    check_environment(result)
    found = [(row['kind'], row['mode'], row['tokens']) for row in result['rows']]
    assert found == [
        (kind, mode, tokens)
        for kind in ('fixed S', 'auto S', 'full')
        for mode in ('forward', 'forward+backward')
        for tokens in (256, 1024)
    ]
    for row in result['rows']:
        check_spread(row['seconds'], repeats=1)
        assert f'| {row["kind"]}, {row["mode"]}, {row["pixels"]} |' in text
    slope = result['slopes'][0]
    small, large = (row['seconds']['median'] for row in result['rows'][:2])
    assert 4 ** slope['slope'] == pytest.approx(large / small)
    assert f'| {slope["slope"]:.2f} |' in text


def test_growth_leaves_out_what_takes_too_long(load, monkeypatch, tmp_path):
    bench = load('bench_attention')
    monkeypatch.setattr(load('op_costs'), 'memory', lambda *args: 1)
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'bench_attention.py',
            '--growth',
            '--size',
            '64',
            '96',
            '--repeats=1',
            '--device=cpu',
            '--limit=1e-9',
            '--backend=sdpa',
            f'--out={tmp_path}',
        ],
    )
    bench.main()
    result, text = only_result(tmp_path)
    for row in result['rows']:
        assert ('seconds' in row) == (row['pixels'] == 64)
        assert (row['error'] is None) == (row['pixels'] == 64)
    assert 'left out' in text
    assert all(row['slope'] is None for row in result['slopes'])


def test_slope_is_the_exponent_of_a_power_law(load):
    slope = load('growth').slope
    tokens = [100, 300, 1000, 5000]
    assert slope(tokens, [3 * n**1.4 for n in tokens]) == pytest.approx(1.4)
    assert slope([100], [1.0]) is None


@pytest.mark.slow
def test_backbone_measures_both_modes_beside_the_yardstick(backbone):
    result, text = backbone
    check_environment(result)
    models = ['biformer:tiny,num_regions=7', 'biformer:tiny,num_regions=4,attn_backend=sdpa']
    assert result['yardstick'] == models[0]
    assert [(row['mode'], row['model']) for row in result['rows']] == [
        (mode, model) for mode in ('inference', 'training') for model in models
    ]
    for row in result['rows']:
        check_spread(row['seconds'], repeats=2)
        assert row['images_per_second'] == 1 / row['seconds']['median']
        assert row['peak_memory'] >= row['memory_at_start'] > 1e7
        assert f'| {row["model"]}, ' in text


def test_backbone_ratio_is_the_quotient_of_the_medians(backbone):
    rows = backbone[0]['rows']
    for first, row in ((rows[0], rows[1]), (rows[2], rows[3])):
        assert first['time_ratio']['median'] == 1
        assert row['time_ratio']['median'] == pytest.approx(
            row['seconds']['median'] / first['seconds']['median']
        )
        pairs = [a / b for a, b in zip(row['seconds']['values'], first['seconds']['values'])]
        assert row['time_ratio']['min'] == pytest.approx(min(pairs))
        assert row['memory_ratio'] == (row['peak_memory'] / first['peak_memory'])


@pytest.mark.parametrize(
    'spec',
    ['biformer:tiny,num_regions=4,drop_path_rate=0.3', 'mmdet:SwinTransformer,depths=(1,1,1,1)'],
)
def test_models_do_the_same_work(load, spec):
    if spec.startswith('mmdet'):
        pytest.importorskip('mmdet')
    build = load('networks').build
    images = torch.randn(2, 3, 64, 64)
    detector = build(spec, 'detection', (64, 64))
    assert [x.shape[2] for x in detector(images)] == [16, 8, 4, 2]
    classifier = build(spec, 'classification', (64, 64))
    assert [x.shape for x in classifier(images)] == [(2, 1000)]
    for module in classifier.modules():
        if type(module).__name__ == 'DropPath':
            assert getattr(module, 'rate', None) == 0.0 or (module.drop_prob == 0.0)


def test_a_model_that_fails_is_named_and_the_others_run(tmp_path):
    _, stderr = run(
        'bench_backbone.py',
        *SMALL,
        '--device',
        'cpu',
        '--mode',
        'inference',
        '--arch',
        'huge',
        '--others',
        'biformer:tiny,num_regions=7',
        '--out',
        tmp_path,
        ok=False,
    )
    assert 'biformer:huge' in stderr and 'arch must be one of' in stderr
    rows = only_result(tmp_path)[0]['rows']
    assert [row['error'] is None for row in rows] == [True, False]


@pytest.mark.parametrize('script', ['bench_attention', 'bench_backbone'])
@pytest.mark.parametrize(
    'args, message',
    [
        (['--backend', 'fast'], "backend must be one of 'auto'"),
        (['--size', '20'], 'a size must be HxW'),
        (['--size', '64xwide'], 'a size must be HxW'),
    ],
)
def test_a_wrong_argument_gives_a_line(load, monkeypatch, tmp_path, script, args, message):
    if script == 'bench_backbone':
        args = [*args, '--others', 'biformer:tiny']
    monkeypatch.setattr(sys, 'argv', [script, *args, f'--out={tmp_path}'])
    with pytest.raises(SystemExit) as error:
        load(script).main()
    line = str(error.value)
    assert line.startswith('error: ') and message in line
    assert '\n' not in line
    assert not list(tmp_path.iterdir())


def test_an_unknown_library_gives_a_line():
    _, stderr = run('bench_backbone.py', '--others', 'keras:Net', ok=False)
    assert stderr.startswith('error: a model is biformer:ARCH')
    assert len(stderr.splitlines()) == 1


def test_a_backend_that_cannot_run_is_refused_or_left_out(load, monkeypatch):
    bench = load('bench_attention')
    problems = load('problems')
    monkeypatch.setattr(load('op_costs'), 'memory', lambda *args: 0)
    monkeypatch.setattr(bench, 'unsupported_reason', lambda *args: 'no wheels')
    monkeypatch.setattr(sys, 'argv', ['bench_attention.py', '--device', 'cpu', '--repeats=1'])
    args = bench.parse_args()
    problem = problems.Problem(1, 8, 8, 64, 2, 1)
    rows = bench.bench(problem, ['sdpa'], args)
    text = bench.stages_table([dict(row, stage=1) for row in rows])
    assert 'forward' not in rows[-1]
    assert text.count('Not run: no wheels') == 1
    args.asked = True
    with pytest.raises(SystemExit, match='no wheels'):
        bench.bench(problem, ['sdpa'], args)


def test_the_reason_of_a_refusal_is_the_ops(load):
    pytest.importorskip('triton', minversion='3.0')
    problems = load('problems')
    problem = problems.Problem(1, 8, 8, 64, 2, 1)
    reason = problems.unsupported_reason('triton', problem, 'cpu', 'fp64')
    assert 'fp32, fp16 and bf16' in reason
    assert problems.unsupported_reason('sdpa', problem, 'cpu', 'fp32') is None


def test_a_backend_that_fails_does_not_stop_the_others(load, monkeypatch):
    """Whatever it raises: errors of Triton are no RuntimeErrors."""
    bench, problems = load('bench_attention'), load('problems')
    right = problems.region_attention
    calls = []

    def fail_at_third_call(*args, backend, **kwargs):
        calls.append(backend)
        if calls.count('sdpa') == 3 and backend == 'sdpa':
            raise TypeError('no such launch\nmore')
        return right(*args, backend=backend, **kwargs)

    monkeypatch.setattr(problems, 'region_attention', fail_at_third_call)
    monkeypatch.setattr(bench, 'unsupported_reason', lambda *args: None)

    def no_memory(problem, name, *args):
        if name == 'dense':
            raise OSError('no memory')
        return 0

    monkeypatch.setattr(load('op_costs'), 'memory', no_memory)
    monkeypatch.setattr(sys, 'argv', ['bench_attention.py', '--device', 'cpu', '--repeats=1'])
    problem = problems.Problem(1, 8, 8, 64, 2, 1)
    rows = bench.bench(problem, ['sdpa', 'reference'], bench.parse_args())
    found = {row['backend']: row['error'] for row in rows}
    assert found == dict(
        dense='OSError: no memory', gathered=None, sdpa='TypeError: no such launch', reference=None
    )
    assert rows[-1]['forward+backward']['seconds']['median'] > 0
    assert 'no such launch' in bench.stages_table([dict(row, stage=1) for row in rows])


def test_growth_is_drawn_with_its_slopes(growth, load):
    result = growth[0]
    figure = load('plot').plot_growth(result)
    assert len(figure.axes) == 4
    first = figure.axes[0]
    slope = result['slopes'][0]['slope']
    texts = [text.get_text() for text in first.get_legend().get_texts()]
    assert texts[0] == f'fixed S: slope {slope:.2f}' and len(texts) == 3
    assert (first.get_xscale(), first.get_yscale()) == ('log', 'log')


def test_ratios_are_drawn_as_bars(backbone, load):
    rows = backbone[0]['rows']
    figure = load('plot').plot_backbone(backbone[0])
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [row['time_ratio']['median'] for row in rows]


def test_pictures_are_written_beside_the_results(attention, backbone, growth, tmp_path):
    results = [result for result, _ in (attention, backbone, growth)]
    (drift,) = BENCHMARKS.glob('results/*/drift_*.json')
    results.append(json.loads(drift.read_text()))
    for i, result in enumerate(results):
        (tmp_path / f'{i}.json').write_text(json.dumps(result))
    run('plot.py', *sorted(tmp_path.glob('*.json')))
    for i in range(4):
        assert (tmp_path / f'{i}.png').read_bytes()[1:4] == b'PNG'


def test_plot_refuses_other_files(tmp_path):
    path = tmp_path / 'other.json'
    path.write_text('{}')
    _, stderr = run('plot.py', path, ok=False)
    assert stderr.startswith('error: ') and len(stderr.splitlines()) == 1


def test_a_reading_is_the_mean_of_as_many_calls_as_fill_it(load, monkeypatch):
    measure = load('measure')
    clock = [0.0]
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: clock[0])

    def step():
        clock[0] += 0.01

    timer = measure.Timer(step, 'cpu', warmup=3, seconds=0.2)
    assert clock[0] == pytest.approx(0.03)
    assert timer.read() == pytest.approx(0.01)
    assert clock[0] == pytest.approx(0.03 + 0.2)


@pytest.mark.slow
def test_drift_compares_runs_from_the_same_start(tmp_path):
    pytest.importorskip('mmpretrain')
    run(
        'drift.py',
        '--steps',
        2,
        '--seeds',
        0,
        1,
        '--backend',
        'reference',
        'sdpa',
        'nudged',
        '--threads',
        1,
        '--out',
        tmp_path,
    )
    result, text = only_result(tmp_path)
    rows = {(row['backend'], row['seed']): row for row in result['rows']}
    assert list(rows) == [
        (name, seed) for seed in (0, 1) for name in ('reference', 'sdpa', 'nudged')
    ]
    for (name, seed), row in rows.items():
        base = rows['reference', seed]
        assert row['first_loss'] == pytest.approx(base['first_loss'], rel=1e-4)
        assert row['curve'][0] == row['first_loss']
        assert row['loss'] == pytest.approx(sum(row['curve']) / 2)
        assert 0 <= row['accuracy'] <= 100
        # Of the weights, which two steps move by more than rounding does.
        distance = row['weights_distance']
        assert distance == 0 if name == 'reference' else 0 < distance < 1e-2
        assert f'| {name}, {seed} | {row["loss"]:.4f} |' in text
    starts = [rows['reference', seed]['first_loss'] for seed in (0, 1)]
    assert starts[0] != pytest.approx(starts[1], rel=1e-4)
    assert len(result['conclusions']) == 4


def drifted(base, others, accuracy=(90.0, 92.0, 91.0)):
    """Made-up runs of three seeds, by backend."""
    losses = dict(reference=base, **others)
    return [
        dict(backend=name, seed=seed, loss=losses[name][seed], accuracy=value)
        for seed, value in enumerate(accuracy)
        for name in losses
    ]


@pytest.mark.parametrize(
    'losses, within',
    [
        ([0.30, 0.40, 0.35], True),
        ([0.40, 0.30, 0.35], True),
        ([0.39, 0.49, 0.44], True),
        ([0.42, 0.52, 0.47], False),
        ([0.18, 0.28, 0.23], False),
        ([0.35, 0.60, 0.30], True),
        ([0.30, 0.40, 0.80], False),
        ([0.30, 0.40, float('nan')], False),
    ],
)
def test_drift_is_within_the_spread_or_not(load, losses, within):
    base = [0.30, 0.40, 0.35]
    loss, accuracy = load('drift').compare(drifted(base, dict(sdpa=losses)))
    assert (loss['metric'], accuracy['metric']) == ('loss', 'accuracy')
    assert loss['backend'] == accuracy['backend'] == 'sdpa'
    assert loss['differences'] == pytest.approx([b - a for a, b in zip(base, losses)], nan_ok=True)
    assert loss['spread'] == pytest.approx(0.1)
    assert loss['within'] == within
    assert accuracy['within'] and accuracy['difference_of_means'] == 0
    assert accuracy['spread'] == 2


@pytest.mark.parametrize('far, status', [('sdpa', 1), ('nudged', None), (None, None)])
def test_drift_ends_with_its_verdict(load, monkeypatch, tmp_path, far, status):
    drift = load('drift')

    def train(backend, nudged, seed, steps, data):
        name = 'nudged' if nudged else backend
        row = dict(seed=seed, loss=seed + 5.0 * (name == far), accuracy=50.0 + seed)
        return row, torch.ones(3)

    monkeypatch.setattr(drift, 'train', train)
    monkeypatch.setattr(drift, 'make_shapes', lambda *args, **kwargs: None)
    monkeypatch.setattr(
        sys, 'argv', ['drift.py', '--backend', 'reference', 'sdpa', 'nudged', f'--out={tmp_path}']
    )
    if status:
        with pytest.raises(SystemExit) as error:
            drift.main()
        assert error.value.code == status
    else:
        drift.main()
    result, text = only_result(tmp_path)
    found = [one['backend'] for one in result['conclusions'] if not one['within']]
    assert found == ([far] if far else [])
    assert text.count('| NO |') == len(found)


@pytest.mark.parametrize(
    'args, message',
    [
        (['--backend', 'sdpa'], 'takes a backend and what is held against it'),
        (['--backend', 'nudged', 'sdpa'], 'takes a backend and what is held'),
        (['--backend', 'sdpa', 'fast'], "backend must be one of 'auto'"),
        (['--seeds', '1', '1'], 'two seeds or more'),
        (['--steps', '0'], 'must be 1 or more'),
    ],
)
def test_drift_refuses_wrong_arguments(load, monkeypatch, capsys, args, message):
    monkeypatch.setattr(sys, 'argv', ['drift.py', *args])
    with pytest.raises(SystemExit):
        load('drift').main()
    assert message in capsys.readouterr().err.splitlines()[-1]
