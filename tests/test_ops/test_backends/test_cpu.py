"""What the CPU's backend chooses; test_region_attention.py has its results."""

import pytest
import torch
from region_cases import make_square

from biformer_mm.ops.backends import cpu, cpu_chunked, cpu_dense

pytestmark = pytest.mark.skipif(
    cpu.unsupported_reason(torch.zeros(1), 1) is not None, reason='PyTorch before 2.4'
)


@pytest.mark.parametrize(
    'size, num_regions, topk, way',
    [
        (14, 7, 16, cpu_dense),
        (16, 8, 16, cpu_dense),
        (28, 7, 4, cpu_chunked),
        (56, 7, 1, cpu_chunked),
    ],
)
def test_small_maps_are_attended_to_as_a_whole(monkeypatch, size, num_regions, topk, way):
    used = []
    for module in (cpu_dense, cpu_chunked):
        monkeypatch.setattr(
            module, 'attend', lambda *args, module=module: used.append(module) or [None]
        )
    cpu.region_attention(
        *make_square(size, num_regions, topk),
        num_heads=1,
        scale=1.0,
        valid_size=None,
        attend_padding=False,
    )
    assert used == [way]


def test_opcheck():
    for way in ('chunked', 'dense'):
        inputs = make_square(size=6, num_regions=3, topk=4)
        inputs[:3] = [x.detach().requires_grad_() for x in inputs[:3]]
        torch.library.opcheck(
            getattr(torch.ops.biformer_mm, f'{way}_attention'), (*inputs, 2, 0.3, 5, 6, True)
        )
