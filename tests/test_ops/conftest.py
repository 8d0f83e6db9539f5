import pytest
import torch

from biformer_mm.ops.backends import cpu, cpu_chunked

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']


@pytest.fixture(params=DEVICES)
def device(request):
    """Every device that is there."""
    return request.param


@pytest.fixture(params=['reference', 'sdpa', 'cpu, dense', 'cpu, chunked', 'cpu, many tiles'])
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
