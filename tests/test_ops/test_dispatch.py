import logging
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from plain_runner import run_without_openmmlab

from biformer_mm import ops
from biformer_mm.ops import dispatch
from biformer_mm.ops.backends import sdpa


@pytest.fixture
def inputs():
    qkv = [torch.randn(1, 2, 2, 2, 2, 8) for _ in range(3)]
    return [*qkv, torch.arange(4).view(1, 4, 1)]


def attend(inputs, **options):
    options = {'num_heads': 2, 'scale': 1.0, **options}
    return ops.region_attention(*inputs, **options)


@pytest.fixture
def picky(monkeypatch):
    """A backend that refuses all inputs."""
    module = SimpleNamespace(unsupported_reason=lambda query, _: f'it dislikes {query.dtype}')
    monkeypatch.setattr(dispatch, '_BACKENDS', {'picky': module, 'sdpa': sdpa})


@pytest.fixture(autouse=True)
def no_default(monkeypatch):
    monkeypatch.delenv('BIFORMER_MM_BACKEND', raising=False)
    yield
    ops.set_default_backend(None)


def test_available_backends():
    """Triton's where Triton is."""
    with_triton = ('triton',) if find_spec('triton') else ()
    assert ops.available_backends() == ('cpu', *with_triton, 'sdpa', 'reference', 'portable')


@pytest.mark.skipif(not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4')
def test_auto_takes_the_cpus_backend_on_cpus(inputs, caplog):
    caplog.set_level(logging.DEBUG, logger='biformer_mm')
    attend(inputs)
    assert caplog.messages == ['region_attention: cpu runs']


def test_unknown_backend_lists_the_valid_ones(inputs):
    message = "one of 'auto', 'cpu', .*'sdpa', 'reference', 'portable'; got 'cuda'"
    with pytest.raises(ValueError, match=message):
        attend(inputs, backend='cuda')
    with pytest.raises(ValueError, match=message):
        ops.set_default_backend('cuda')


def test_backend_asked_for_by_name_runs_or_tells_why(inputs, picky):
    with pytest.raises(
        RuntimeError,
        match="'picky' was asked for but it dislikes torch.float32; use backend='auto'",
    ):
        attend(inputs, backend='picky')
    ops.set_default_backend('picky')
    with pytest.raises(RuntimeError, match='it dislikes'):
        attend(inputs)


def test_auto_skips_what_does_not_support_and_logs_why(inputs, picky, caplog):
    caplog.set_level(logging.DEBUG, logger='biformer_mm')
    assert attend(inputs).shape == inputs[0].shape
    assert 'not picky, as it dislikes torch.float32' in caplog.text
    assert 'sdpa runs' in caplog.text


@pytest.mark.skipif(not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4')
def test_auto_is_fused_when_compiled_too(inputs):
    """Only what is exported takes PyTorch's own ops instead."""
    used = []

    def record(graph, _):
        used.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(ops.region_attention, backend=record, fullgraph=True)
    compiled(*inputs, num_heads=2, scale=1.0)
    assert [x for x in used if x.startswith('biformer_mm.')]


def test_default_comes_from_the_setter_before_the_environment(inputs, monkeypatch):
    used = []
    for name, module in dispatch._BACKENDS.items():
        monkeypatch.setitem(
            dispatch._BACKENDS,
            name,
            SimpleNamespace(
                unsupported_reason=module.unsupported_reason,
                region_attention=lambda *args, name=name, **kwargs: used.append(name),
            ),
        )
    attend(inputs, backend='sdpa')
    monkeypatch.setenv('BIFORMER_MM_BACKEND', 'reference')
    attend(inputs)
    ops.set_default_backend('sdpa')
    attend(inputs)
    ops.set_default_backend(None)
    attend(inputs)
    attend(inputs, backend='sdpa')
    assert used == ['sdpa', 'reference', 'sdpa', 'reference', 'sdpa']
    monkeypatch.setenv('BIFORMER_MM_BACKEND', 'fast')
    with pytest.raises(ValueError, match="got 'fast'"):
        attend(inputs)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(query=torch.zeros(2, 2, 8)), r'share one shape .* got \(2, 2, 8\)'),
        (dict(key=torch.zeros(1, 2, 2, 2, 3, 8)), 'share one shape'),
        (
            dict(value=torch.zeros(1, 2, 2, 2, 2, 8).half()),
            'share one floating-point dtype; got .*float16',
        ),
        (dict(index=torch.zeros(1, 4, 1)), r'integer tensor .* of torch.float32'),
        (dict(index=torch.zeros(1, 3, 1).long()), r'\(1, 4, k\); got \(1, 3, 1\)'),
        (
            dict(index=torch.zeros(1, 4, 5).long()),
            'between 1 and the number of regions, 4; got k=5',
        ),
        (
            dict(index=torch.tensor([0, 1, 2, 4]).view(1, 4, 1)),
            'must hold regions, 0 to 3; got 0 to 4',
        ),
        (dict(index=torch.tensor([0, -1, 2, 3]).view(1, 4, 1)), 'got -1 to 3'),
        (
            dict(key=torch.zeros(1, 2, 2, 2, 2, 8, device='meta')),
            'key must be on the device of query, cpu; got meta',
        ),
        (dict(num_heads=3), 'got C=8 and num_heads=3'),
        (dict(num_heads=True), 'num_heads must be an integer .*; got True'),
        (dict(scale=float('nan')), 'scale must be a finite number; got nan'),
        (dict(attend_padding='False'), "True or False; got 'False'"),
        (dict(valid_size=(5, 4)), r'between \(1, 1\) and \(4, 4\).* got \(5, 4\)'),
        (dict(valid_size=(4, 0)), r'got \(4, 0\)'),
        (dict(valid_size=(0, 4)), r'got \(0, 4\)'),
    ],
)
def test_wrong_input(inputs, change, message):
    names = ('query', 'key', 'value', 'index')
    tensors = [change.pop(n, x) for n, x in zip(names, inputs)]
    with pytest.raises(ValueError, match=message):
        attend(tensors, **change)


def test_ops_need_no_openmmlab(tmp_path):
    run_without_openmmlab(
        """
from biformer_mm.ops import region_attention
x = torch.ones(1, 2, 2, 2, 2, 8)
out = region_attention(x, x, x, torch.arange(4).view(1, 4, 1), num_heads=2, scale=1.0)
assert torch.equal(out, x)
""",
        cwd=tmp_path,
    )
