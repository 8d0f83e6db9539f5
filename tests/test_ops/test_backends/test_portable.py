"""When it runs; test_region_attention.py has its results."""

import pytest
import torch
from region_cases import make_inputs

from biformer_mm.ops import region_attention
from biformer_mm.ops.backends import portable


class Attention(torch.nn.Module):
    def forward(self, query, key, value, region_index):
        return region_attention(query, key, value, region_index, num_heads=2, scale=0.3)


@pytest.fixture
def calls(monkeypatch):
    """One entry per call of the backend."""
    calls, own = [], portable.region_attention

    def region_attention(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(portable, 'region_attention', region_attention)
    return calls


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_auto_is_portable_in_a_trace_only(calls):
    qkv, index, options = make_inputs((2, 2, 2, 2, 3, 8, 2, 3))
    expected = Attention()(*qkv, index)
    assert not calls
    trace = torch.jit.trace(Attention(), (*qkv, index), check_trace=False)
    assert calls
    torch.testing.assert_close(trace(*qkv, index), expected)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_backend_asked_for_by_name_is_kept_in_a_trace(calls):
    qkv, index, options = make_inputs((2, 2, 2, 2, 3, 8, 2, 3))
    torch.jit.trace(
        lambda *x: region_attention(*x, **options, backend='sdpa'), (*qkv, index), check_trace=False
    )
    assert not calls


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'), reason='PyTorch before 2.6')
def test_torch_export_keeps_the_fused_attention(calls):
    """Which its compiler makes fast."""
    qkv, index, options = make_inputs((2, 2, 2, 2, 3, 8, 2, 3), dtype=torch.float32)
    program = torch.export.export(Attention(), (*qkv, index))
    assert not calls
    assert any('scaled_dot_product' in str(node.target) for node in program.graph.nodes)
