"""What it copies and refuses; test_region_attention.py has its results."""

import pytest
import torch
from region_cases import make_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from biformer_mm.ops import region_attention
from biformer_mm.ops.backends import sdpa


class Gathers(TorchDispatchMode):
    """The number of gathers that run."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten.index_select.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    'shape, number', [((2, 1, 1, 4, 3, 8, 4, 1), 0), ((1, 2, 2, 2, 3, 8, 2, 3), 2)]
)
def test_one_region_is_not_gathered(shape, number):
    """Of several, keys and values are, in one copy each."""
    qkv, index, options = make_inputs(shape)
    with Gathers() as gathers:
        region_attention(*qkv, index, **options, backend='sdpa')
    assert gathers.number == number


def test_refuses_dtypes_that_this_pytorch_cannot_attend_in(monkeypatch):
    monkeypatch.setattr(sdpa, '_half_runs_on_cpu', lambda: False)
    monkeypatch.setattr(sdpa.cpu_flash, 'AVAILABLE', False)
    for dtype, reason in (
        (torch.float32, None),
        (torch.float16, 'no fp16 attention on the CPU'),
        (torch.bfloat16, 'no sound bf16 attention on the CPU'),
    ):
        found = sdpa.unsupported_reason(torch.zeros(1, dtype=dtype), 1)
        assert found is None if reason is None else reason in found
