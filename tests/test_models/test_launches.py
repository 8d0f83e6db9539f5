"""How many kernels a GPU runs for a block, and that it never waits for one.

No GPU is needed: PyTorch traces tensors that have a device and a shape only,
with autocast as on GPUs. What one of our ops starts is counted by running it
on a CPU without its kernels.
"""

import importlib
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from biformer_mm.models import BiFormer
from biformer_mm.ops import self_check

pytest.importorskip('triton', minversion='3.0')
if not hasattr(torch.library, 'custom_op'):
    pytest.skip('PyTorch before 2.4', allow_module_level=True)
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from triton.runtime.interpreter import GridExecutor  # noqa: E402

# Our ops' functions, which start kernels.
FORWARD = {
    'layer_norm': ('triton_layer_norm', '_forward'),
    'add_layer_norm': ('triton_layer_norm', '_add_forward'),
    'add_depthwise': ('triton_depthwise', '_forward'),
    'routing_index': ('triton_routing', '_route'),
    'attention_with_lce': ('triton_lce', '_forward'),
    'region_attention': ('triton', '_forward'),
}
# Padding fills a new map, and copies the old one into it.
SEVERAL = {'constant_pad_nd': 2}
NOTHING = ('empty', 'empty_like', 'new_empty', 'empty_strided', 'detach')


class Calls(TorchDispatchMode):
    """PyTorch's ops that start kernels, with their arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split('.')[0]
        returned = func._schema.returns
        alias = returned[0].alias_info if returned else None
        is_view = alias is not None and not alias.is_write
        if not (is_view or func.namespace == 'prim' or name in NOTHING):
            self.seen.append((func.namespace, name, args))
        return func(*args, **(kwargs or {}))


def kernels(calls):
    return sum(
        SEVERAL.get(name, 1) if namespace == 'aten' else started(name, args)
        for namespace, name, args in calls
    )


def started(name, args):
    """Kernels of one of our ops, Triton's and PyTorch's."""
    module, function = FORWARD[name]
    module = importlib.import_module(f'biformer_mm.ops.backends.{module}')
    args = [
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
        if isinstance(x, torch.Tensor)
        else x
        for x in args
    ]
    grids = []
    with mock.patch.object(
        GridExecutor, '__call__', lambda *_, **__: grids.append(1)
    ), Calls() as calls:
        getattr(module, function)(*args)
    return len(grids) + kernels(calls.seen)


@pytest.fixture
def gpu(monkeypatch):
    """PyTorch and our ops take tensors without memory for a GPU's."""
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setenv(self_check.ENV_VAR, '0')
    monkeypatch.setattr(torch.__future__, 'get_overwrite_module_params_on_conversion', lambda: True)


def autocast():
    with mock.patch.object(torch.cuda, 'is_available', lambda: True), mock.patch.object(
        torch.cuda, 'is_bf16_supported', lambda: True
    ):
        return torch.autocast('cuda', dtype=torch.bfloat16)


def on_gpu(model):
    return model._apply(lambda x: torch.empty(x.shape, dtype=x.dtype, device='cuda'))


def trace_blocks(arch, num_regions, size, **options):
    """What the first block of each stage calls, and its map's shape."""
    model = BiFormer(arch, num_regions=num_regions, **options).eval()
    found = []
    with ExitStack() as modes:
        modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        modes.enter_context(torch.no_grad())
        modes.enter_context(autocast())
        model, x = on_gpu(model), torch.empty(1, 3, *size, device='cuda')
        for i, stage in enumerate(model.stages):
            x = model.downsamples[i - 1](x) if i else model.stem(x)
            x = x.permute(0, 2, 3, 1).contiguous()
            with Calls() as calls:
                x = stage[0](x)
            assert x.dtype == torch.bfloat16
            found.append(calls.seen)
            x = x.permute(0, 3, 1, 2)
    return found


CASES = [
    ('stl', 7, (224, 224), 20, {}),
    ('small', 7, (224, 224), 21, {}),
    ('small', 8, (512, 512), 21, {}),
    ('small', 16, (800, 1333), 24, {}),
    ('base', 16, (800, 1333), 24, dict(padding='masked')),
]


@pytest.mark.parametrize('arch, num_regions, size, most, options', CASES)
def test_kernels_of_a_block(arch, num_regions, size, most, options, gpu):
    """20, and one for the position convolution and three for padding. Twelve
    are products and the casts of their weights and biases."""
    blocks = trace_blocks(arch, num_regions, size, **options)
    assert max(map(kernels, blocks)) <= most


def test_the_counter_sees_what_pytorch_starts(gpu, monkeypatch):
    """Without our kernels: casts of ten weights and around two LayerNorms,
    and routing step by step."""
    monkeypatch.setenv('BIFORMER_MM_BACKEND', 'sdpa')
    names = [name for _, name, _ in trace_blocks('stl', 7, (224, 224))[0]]
    assert names.count('_to_copy') >= 10 + 4
    assert {'native_layer_norm', 'convolution', 'topk', 'bmm'} < set(names)
    assert kernels([('aten', name, ()) for name in names]) > 30


@pytest.mark.parametrize('backend', ['triton', 'sdpa', 'reference'])
@pytest.mark.parametrize('padding', ['legacy', 'masked'])
def test_no_backend_reads_a_value_on_the_host(backend, padding, gpu):
    """What a CUDA graph demands: a tensor without memory raises there."""
    model = BiFormer('tiny', num_regions=8, padding=padding, attn_backend=backend).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), autocast():
        model, x = on_gpu(model), torch.empty(2, 3, 200, 264, device='cuda')
        outs = model(x)
        assert [out.shape[1] for out in outs] == [64, 128, 256, 512]
        with pytest.raises(Exception, match='scalar'):
            outs[0].max().item()
