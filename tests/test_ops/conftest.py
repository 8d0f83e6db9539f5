import pytest
import torch

from biformer_mm.ops import dispatch, self_check
from biformer_mm.ops.backends import cpu, cpu_chunked, portable, sdpa

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']


@pytest.fixture(params=DEVICES)
def device(request):
    """Every device that is there."""
    return request.param


@pytest.fixture(
    params=['reference', 'sdpa', 'portable', 'cpu, dense', 'cpu, chunked', 'cpu, many tiles']
)
def backend(request, device, monkeypatch):
    """Every backend in plain PyTorch, the CPU's with each of its ways."""
    name, _, way = request.param.partition(', ')
    if name != 'cpu':
        return name
    reason = cpu.unsupported_reason(torch.zeros(1, device=device), 1)
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(cpu, 'DENSE_TOKENS_PER_ROUTE', 1000 if way == 'dense' else 0)
    if way == 'many tiles':
        monkeypatch.setattr(cpu_chunked, 'TILE_BYTES', 1)
    return name


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A CPU that the backend takes for a GPU; where passes are remembered."""
    from biformer_mm.ops.backends import triton

    monkeypatch.setattr(triton, 'interpreted', lambda: False)
    monkeypatch.setattr(triton, 'unsuitable', lambda device: None)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(self_check, 'describe', lambda device: 'a card')
    monkeypatch.setattr(self_check, '_found', {})
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv(self_check.ENV_VAR, raising=False)
    monkeypatch.setattr(dispatch, '_BACKENDS', dict(triton=triton, sdpa=sdpa, portable=portable))
    return tmp_path / 'biformer_mm' / 'self_check'
