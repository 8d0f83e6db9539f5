"""A wrong kernel of the block does not reach a user: Triton's interpreter plays the GPU."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton_block

if torch.cuda.is_available():
    pytest.skip('Triton is not interpreted here', allow_module_level=True)
pytestmark = pytest.mark.usefixtures('gpu')
CPU = torch.device('cpu')
BREAKS = {
    'layer_norm': ('layer_norm', 'norm_forward',
                   'tl.rsqrt(', '1.1 * tl.rsqrt('),
    'add_layer_norm': ('layer_norm', 'norm_backward', 'dx += _load(DSUM',
                       'dx += 0.9 * _load(DSUM'),
    'add_depthwise': ('depthwise', 'convolve',
                      'SIZE * SIZE - 1 - tap if FLIP else tap', 'tap'),
    'routing': ('routing', 'route', 'for start in range(0, C, BLOCK_C)',
                'for start in range(BLOCK_C, C, BLOCK_C)'),
}  # fmt: skip


def break_kernel(name, monkeypatch, tmp_path):
    file, kernel, right, wrong = BREAKS[name]
    module = importlib.import_module(f'biformer_mm.ops.backends.triton_{file}')
    source = Path(module.__file__).read_text()
    assert source.count(right) == 1
    path = tmp_path / 'broken_kernel.py'
    path.write_text(
        re.sub(
            'from ..registration import (.*)',
            r'\1 = lambda *_, **__: None',
            source.replace(right, wrong),
        )
    )
    spec = importlib.util.spec_from_file_location('biformer_mm.ops.backends.broken_kernel', path)
    broken = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(broken)
    monkeypatch.setattr(module, kernel, getattr(broken, kernel))


@pytest.mark.slow
def test_right_kernels_pass():
    assert triton_block.first_error(CPU, torch.float16) is None


@pytest.mark.first_tier(3)
@pytest.mark.parametrize('name', BREAKS)
def test_wrong_kernels_are_found(name, monkeypatch, tmp_path):
    break_kernel(name, monkeypatch, tmp_path)
    x = torch.zeros(1, 2, 2, 16)
    with pytest.warns(RuntimeWarning, match=f'on this GPU: {name} '):
        reason = triton_block.unsupported_reason(x)
    assert reason.startswith(f'its self-check failed on this GPU ({name} ')
    with pytest.raises(RuntimeError, match='compile again'):
        triton_block.refuse_faulty(x)


def test_nothing_runs_in_a_trace(monkeypatch):
    monkeypatch.setattr(triton_block, 'first_error', lambda *_: 'it ran')
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert triton_block.unsupported_reason(torch.zeros(1, 2, 2, 16)) is None
