"""What run_gpu.sh's steps do that a run without faults does not show."""

import contextlib
from types import SimpleNamespace

import pytest
import torch


def test_the_cost_is_that_of_the_tensors(load):
    """Counted from the tensors themselves, and pair by pair."""
    problems = load('problems')
    problem = problems.Problem(2, 7, 6, 64, 2, 3)
    inputs = problems.make_inputs(problem, 'cpu', 'fp16')
    out = problems.attention(problem, inputs, 'reference', False)()
    tokens = 2 * 8 * 6
    small = tokens * problem.num_heads * 4 + inputs.index.nbytes
    one = out.numel() * out.element_size()
    pairs = sum(
        len(inputs.index[image, region]) * 4 * 3
        for image in range(2)
        for y in range(7)
        for x in range(6)
        for region in [y // 4 * 2 + x // 3]
    )
    forward = 4 * one + small, 4 * pairs * 64
    backward = 8 * one + small, 10 * pairs * 64
    assert problems.cost(problem, 'forward', 'fp16') == [forward]
    assert problems.cost(problem, 'forward+backward', 'fp16') == [forward, backward]


def test_the_floor_is_the_larger_of_two_times(load):
    ceilings, problems = load('gpu.ceilings'), load('problems')
    problem = problems.Problem(2, 8, 8, 64, 2, 4)
    (moved, flops), (moved_back, flops_back) = problems.cost(problem, 'forward+backward', 'bf16')

    def floor(bandwidth, rate, mode='forward+backward'):
        rows = [
            dict(name='copy', value=bandwidth),
            dict(name='product, bf16', value=rate),
            dict(name='clocks'),
        ]
        return ceilings.floor(rows, problem, mode, 'bf16')

    assert floor(1.0, 1e99) == (moved + moved_back, 'memory')
    assert floor(1e99, 2.0) == ((flops + flops_back) / 2, 'compute')
    assert floor(1.0, 1e99, 'forward') == (moved, 'memory')
    assert ceilings.floor([], problem, 'forward', 'bf16') is None


def wrong(name, value, out):
    return {
        'scaled': lambda: out * 1.01,
        'unwritten': lambda: out + torch.empty_like(out).mul(0),
        'gradient': lambda: out + (value - value.detach()) * 0.1,
        'random': lambda: out + torch.rand_like(out) * 1e-4,
        'right': lambda: out,
    }[name]()


@pytest.mark.parametrize(
    'name, message',
    [
        ('scaled', 'wrong beyond 5e-03: o 1.0e-02'),
        ('unwritten', 'wrong beyond 5e-03: o nan'),
        ('gradient', 'wrong beyond 5e-03: dv'),
        ('random', 'two runs differ in o'),
        ('right', None),
    ],
)
def test_smoke_finds_what_is_wrong(load, monkeypatch, name, message):
    smoke, problems = load('gpu.smoke'), load('problems')
    attend = problems.region_attention

    def broken(query, key, value, *args, backend, **kwargs):
        chosen = 'sdpa' if backend == 'triton' else backend
        out = attend(query, key, value, *args, backend=chosen, **kwargs)
        return wrong(name, value, out) if backend == 'triton' else out

    monkeypatch.setattr(problems, 'region_attention', broken)
    row = {}
    smoke.check(problems.Problem(1, 8, 8, 32, 2, 2), 'cpu', 'fp16', row)
    assert set(row['errors']) == {'o', 'dq', 'dk', 'dv'}
    assert (row['error'] or '').startswith(message or '')
    assert (row['error'] is None) == (message is None)
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.undo()


@pytest.mark.parametrize('name', ['stl', 'small'])
def test_networks_are_built_on_a_cpu_and_run_later(load, monkeypatch, name):
    """Where triton, which the dry run has on a CPU, is on GPUs alone."""
    dispatch = load('biformer_mm.ops.dispatch')
    if 'triton' not in dispatch._BACKENDS:
        pytest.skip('Triton is not installed')
    monkeypatch.setattr(
        dispatch._BACKENDS['triton'], 'unsupported_reason', lambda *args: 'there is no GPU'
    )
    network = load('gpu.sizes').FULL.networks[name]
    model = load('gpu.backbones').build_model(network, 'triton')
    with pytest.raises(RuntimeError, match='there is no GPU'):
        model.eval()(torch.zeros(1, 3, 64, 64))
    named = {module.attn_backend for module in model.modules() if hasattr(module, 'attn_backend')}
    assert named == {'triton'}


@pytest.mark.parametrize('name', ['stl', 'small'])
@pytest.mark.parametrize('model, fused', [('swin', False), ('swin fused', True)])
def test_swin_is_fused_on_request(load, name, model, fused):
    pytest.importorskip('timm')
    network = load('gpu.sizes').DRY.networks[name]
    found = load('gpu.backbones').build_model(network, model)
    assert {module.fused_attn for module in found.modules() if hasattr(module, 'fused_attn')} == {
        fused
    }


def test_regions_can_be_routed_twice(load):
    problems = load('problems')
    problem = problems.Problem(2, 8, 8, 32, 2, 3)
    once = problems.make_inputs(problem, 'cpu', 'fp32').index
    twice = problems.make_inputs(problem._replace(repeated=True), 'cpu', 'fp32').index
    for i, j in ((0, 0), (1, 0), (2, 1)):
        assert torch.equal(twice[..., i], once[..., j])


def test_a_rotating_timer_runs_the_steps_in_turn(load, monkeypatch):
    measure = load('measure')
    clock, calls = [0.0], []
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: clock[0])

    def make(name):

        def step():
            calls.append(name)
            clock[0] += 0.01

        return step

    timer = measure.RotatingTimer([make('a'), make('b')], 'cpu', seconds=0.04)
    calls.clear()
    assert timer.read() == pytest.approx(0.01)
    assert calls == ['a', 'b', 'a', 'b']


def test_a_graph_is_recorded_after_warming_up(load, monkeypatch):
    """With stand-ins: a GPU alone shows that the order is right."""
    events = []
    monkeypatch.setattr(
        torch.cuda,
        'Stream',
        lambda: SimpleNamespace(wait_stream=lambda other: events.append('side waits')),
    )
    monkeypatch.setattr(
        torch.cuda,
        'current_stream',
        lambda: SimpleNamespace(wait_stream=lambda other: events.append('waits for side')),
    )

    @contextlib.contextmanager
    def block(name):
        events.append(f'{name} begins')
        yield
        events.append(f'{name} ends')

    monkeypatch.setattr(torch.cuda, 'stream', lambda stream: block('side'))
    monkeypatch.setattr(torch.cuda, 'graph', lambda graph: block('graph'))
    monkeypatch.setattr(
        torch.cuda, 'CUDAGraph', lambda: SimpleNamespace(replay=lambda: events.append('replay'))
    )
    replay = load('measure').capture(lambda: events.append('step'))
    replay()
    assert events == [
        'side waits',
        'side begins',
        *['step'] * 3,
        'side ends',
        'waits for side',
        'graph begins',
        'step',
        'graph ends',
        'replay',
    ]


def test_failures_of_tests_are_written_as_they_happen(load):
    rows = []
    step = SimpleNamespace(add=rows.append)
    recorder = load('gpu.tests').Recorder(step)

    def report(outcome, when='call', text=''):
        recorder.pytest_runtest_logreport(
            SimpleNamespace(
                outcome=outcome,
                failed=outcome == 'failed',
                when=when,
                nodeid='test_x',
                longrepr=text,
            )
        )

    report('passed', 'setup')
    report('passed')
    report('passed', 'teardown')
    report('skipped', 'setup')
    report('failed', 'call', 'x.py:1: in f\nE   assert 1 == 2\nE   more')
    recorder.pytest_collectreport(
        SimpleNamespace(failed=True, nodeid='y.py', longrepr='cannot import')
    )
    assert recorder.counts == dict(passed=1, failed=2, skipped=1)
    assert rows == [
        dict(test='test_x', error='assert 1 == 2'),
        dict(test='y.py', error='cannot import'),
    ]


def test_results_survive_a_process_that_dies_while_writing(load, tmp_path):
    Results = load('gpu.results').Results
    Results(tmp_path).add('op', dict(value=1))
    results = Results(tmp_path)
    with pytest.raises(TypeError):
        results.add('op', dict(value=object()))
    assert Results(tmp_path).data == dict(op=[dict(value=1)])
