"""What surrounds the kernels: devices, memory layouts, gradients of nothing."""

import pytest
import torch
from tolerances import assert_within, attend, make_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from biformer_mm.ops import region_attention

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CASE = (1, 2, 2, 2, 3, 2, 16, 2, None, False)
needs_custom_op = pytest.mark.skipif(
    not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4'
)


def test_launches_on_the_device_of_the_tensors(monkeypatch):
    """Not on the current one: Triton knows no other."""
    current, launches = [], []

    class DeviceOf:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            current.append(self.tensor)

        def __exit__(self, *_):
            current.pop()

    def launch(self, kernel, query, *_):
        assert current and current[-1].shape == query.shape
        launches.append(kernel)

    monkeypatch.setattr(torch.cuda, 'device_of', DeviceOf)
    monkeypatch.setattr(triton._Launcher, '__call__', launch)
    qkv, index, options = make_inputs(CASE, DEVICE, torch.float32)
    attend(qkv, index, options, 'triton')
    assert launches == ['forward', 'backward_query', 'backward_key']
    assert not current


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs a GPU')
def test_runs_on_the_second_gpu():
    with torch.cuda.device(0):
        assert_within('triton', CASE, 'cuda:1', torch.float32)


@needs_custom_op
@pytest.mark.parametrize('odd', ['key', 'channels', 'index'])
def test_the_op_takes_any_strides(odd):
    """Compilers call it directly, at times with strides of their own."""
    (query, key, value), index, options = make_inputs(CASE, DEVICE, torch.float32)
    exact = attend((query, key, value), index, options, 'reference', torch.float64)
    if odd == 'key':
        key = key.contiguous()
    elif odd == 'channels':
        query, key, value = (
            x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (query, key, value)
        )
    else:
        index = index.transpose(1, 2).contiguous().transpose(1, 2)
        assert not index.is_contiguous()
    qkv = [x.detach().requires_grad_() for x in (query, key, value)]
    out, _ = torch.ops.biformer_mm.region_attention(
        *qkv, index, options['num_heads'], options['scale'], 0, 0, False
    )
    weights = torch.randn(query.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = torch.autograd.grad(out, qkv, weights)
    for x, name in zip((out, *found), ('o', 'dq', 'dk', 'dv')):
        torch.testing.assert_close(x.double(), exact[name], rtol=1e-4, atol=1e-5, msg=name)


class Calls(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('backend', ['triton', 'cpu'])
def test_no_gradient_is_made_for_the_log_sum_exp(backend):
    if backend == 'cpu' and DEVICE == 'cuda':
        pytest.skip('it runs on CPUs')
    qkv, index, options = make_inputs(CASE, DEVICE, torch.float32)
    qkv = [x.detach().requires_grad_() for x in qkv]
    out = region_attention(*qkv, index, **options, backend=backend)
    dout = torch.ones_like(out)
    with Calls() as calls:
        torch.autograd.grad(out, qkv, dout)
    assert calls.names
    assert not [x for x in calls.names if x.startswith('zeros')]
