"""A wrong kernel does not reach a user: Triton's interpreter plays the GPU."""

import importlib.util
import warnings
from pathlib import Path

import pytest
import tolerances
import torch
from torch.utils.flop_counter import FlopCounterMode

from biformer_mm.ops import region_attention, self_check

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton  # noqa: E402
from biformer_mm.ops.backends.triton_config import sees_map  # noqa: E402

if torch.cuda.is_available():
    pytest.skip('Triton is not interpreted here', allow_module_level=True)
pytestmark = pytest.mark.usefixtures('gpu')
CPU = torch.device('cpu')
# What breaks the kernels, what the self-check has to say of it, and which of
# its problems shows it.
BREAKS = {
    'weights': (
        'weight = tl.exp2(score - base[:, None])',
        'weight = tl.exp2(score - base[:, None] * 1.01)',
        'o is off',
        1,
    ),
    'padding attended to': (
        'if CROP_KEYS:\n            keys &= _valid(token',
        'if False:\n            keys &= _valid(token',
        'o is off',
        3,
    ),
    'dq': ('dq *= scale * LN_2', 'dq *= scale', 'dq is off', 1),
    'dk': ('dk * (scale * LN_2)', 'dk * scale', 'dk is off', 1),
    'dv': ('dv = tl.where(keys[:, None], dv, 0.0)', 'dv = dv * 1.1', 'dv is off', 1),
    'does not compile': ('dq *= scale * LN_2', 'dq *= no_such_name', 'no_such_name', 1),
    'times routed': ('score += bias', 'score += 0.9 * bias', 'o is off', 4),
}


@pytest.fixture
def few(monkeypatch):
    """Less to check, where it matters not what is checked."""
    monkeypatch.setattr(self_check, 'PROBLEMS', self_check.PROBLEMS[1:2])


@pytest.fixture
def runs(monkeypatch, few):
    """The dtype of each problem that is run, in their order."""
    seen = []

    def run(query, *args, **options):
        seen.append(query.dtype)
        return self_check.exactly(query, *args, options)

    monkeypatch.setattr(triton, '_run', run)
    return seen


def attend(backend='auto', dtype=torch.float32, op=region_attention):
    case = (1, 2, 2, 2, 3, 2, 16, 2, None, False)
    qkv, index, options = tolerances.make_inputs(case, CPU, dtype)
    return op(*qkv, index, **options, backend=backend)


def compiled():
    torch._dynamo.reset()
    return torch.compile(region_attention, backend='aot_eager', fullgraph=True)


def break_kernels(monkeypatch, tmp_path, name):
    """Take kernels whose source differs in one place."""
    right, wrong, _, problem = BREAKS[name]
    of_map = name == 'times routed'
    attribute = 'triton_map' if of_map else 'kernels'
    source = Path(getattr(triton, attribute).__file__).read_text()
    assert right in source
    path = tmp_path / 'broken_kernels.py'
    path.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location('biformer_mm.ops.backends.broken_kernels', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(triton, attribute, module)
    monkeypatch.setattr(self_check, 'PROBLEMS', self_check.PROBLEMS[problem : problem + 1])


def test_tolerances_are_those_of_the_tests():
    table = tolerances.TOLERANCES['triton', 'cuda']
    for dtype, limits in table.items():
        name = 'ieee' if dtype == torch.float32 else dtype
        assert limits == (self_check.TOLERANCES[name],) * 2


@pytest.mark.slow
@pytest.mark.parametrize('dtype, head_dim', [(torch.float32, 32), (torch.float16, 24)])
def test_right_kernels_pass(dtype, head_dim):
    assert self_check.first_error(CPU, dtype, head_dim, triton._run) is None


def test_problems_hold_what_the_kernels_distinguish():
    """Remainders and none, padding of both kinds, none, duplicates."""
    problems = self_check.PROBLEMS
    assert {
        sees_map(32, x.region[0] * x.region[1], x.regions[0] * x.regions[1], x.topk)
        for x in problems
    } == {True, False}
    assert {x.attend_padding for x in problems if x.valid_size} == {True, False}
    assert any(x.valid_size is None for x in problems)
    assert any(x.region[0] % 2 and x.region[1] % 2 for x in problems)
    for problem in problems:
        index = self_check.make_inputs(problem, CPU, torch.float32, 16)[3]
        chosen = index.sort().values
        assert problem.topk == 1 or (chosen[..., 1:] == chosen[..., :-1]).any()


@pytest.mark.first_tier(3)
@pytest.mark.parametrize('name', BREAKS)
def test_wrong_kernels_are_found(name, monkeypatch, tmp_path, gpu):
    break_kernels(monkeypatch, tmp_path, name)
    with pytest.warns(RuntimeWarning) as warned:
        out = attend()
    (message,) = (str(x.message) for x in warned if 'this GPU' in str(x.message))
    assert BREAKS[name][2] in message
    assert 'report this as an issue of biformer_mm, with: a card' in message
    torch.testing.assert_close(out, attend('sdpa'), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*GPU')  # it was said once
        attend()
        with pytest.raises(
            RuntimeError,
            match="'triton' was asked for but its self-check failed on "
            'this GPU .*' + BREAKS[name][2],
        ):
            attend('triton')
    assert not gpu.exists()  # the next process tries again


def test_a_pass_is_remembered_on_disk(runs, gpu, monkeypatch):
    attend()
    attend()
    assert runs == [torch.float32]
    assert [path.read_text() for path in gpu.iterdir()] == ['a card, torch.float32, ieee, 32\n']
    self_check._found.clear()  # as in another process
    attend()
    assert len(runs) == 1
    for change in ('a card with another driver', 'another card'):
        self_check._found.clear()
        monkeypatch.setattr(self_check, 'describe', lambda device: change)
        attend()
    assert len(runs) == 3


def test_each_dtype_is_checked(runs):
    for dtype in (torch.float32, torch.float16, torch.float32):
        attend(dtype=dtype)
    assert runs == [torch.float32, torch.float16]


def test_where_nothing_can_be_remembered(runs, gpu):
    gpu.parent.write_text('a file in the place of the folder')
    attend()
    assert len(runs) == 1


@pytest.mark.parametrize('value, checked', [('0', False), ('1', True)])
def test_variable_of_the_environment(value, checked, runs, monkeypatch):
    monkeypatch.setenv(self_check.ENV_VAR, value)
    attend()
    assert bool(runs) == checked


def test_what_the_result_depends_on(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'H9')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    monkeypatch.setattr(self_check, '_driver', lambda: '1.2.3')
    before = self_check.describe(CPU)
    assert before.startswith(f'H9 (9, 0), driver 1.2.3, torch {torch.__version__}, triton ')
    read = Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', lambda path: read(path) + b' ')
    assert self_check.describe(CPU) != before


def test_the_callers_modes_change_nothing(few):
    """Nor does the check touch the caller's random numbers."""
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    with torch.inference_mode(), torch.autocast('cpu'), FlopCounterMode(
        display=False
    ) as counter, torch.device('meta'):
        reason = triton._fault(CPU, torch.float32, 32, True)
    assert reason is None and counter.get_total_flops() == 0
    assert torch.equal(torch.rand(()), expected)


class TestNothingRuns:
    """While a graph is made or captured: only what is known counts."""

    def test_in_a_capture(self, runs, monkeypatch):
        monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
        attend('triton')
        assert not runs

    def test_in_a_trace(self, runs):
        torch.jit.trace(lambda x: x + attend().sum(), torch.ones(1), check_trace=False)
        assert not runs

    def test_in_a_compilation(self, runs, monkeypatch):
        """The op itself checks, when it first runs."""
        in_compilation = []
        fault = self_check.fault

        def watch(*args):
            before = len(runs)
            result = fault(*args)
            in_compilation.append((args[-1], len(runs) - before))
            return result

        monkeypatch.setattr(self_check, 'fault', watch)
        attend('triton', op=compiled())
        assert in_compilation == [(False, 0), (True, 1)]

    def test_a_compiled_model_stops_at_wrong_kernels(self, monkeypatch, tmp_path):
        break_kernels(monkeypatch, tmp_path, 'weights')
        model = compiled()
        with pytest.warns(RuntimeWarning, match='failed on this GPU'), pytest.raises(
            RuntimeError,
            match='must not run, as its self-check failed .*; set BIFORMER_MM_BACKEND=sdpa',
        ):
            attend(op=model)
        torch.testing.assert_close(attend(op=compiled()), attend('sdpa'))
