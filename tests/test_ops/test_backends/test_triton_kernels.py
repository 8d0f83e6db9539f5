import pytest

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends.triton_kernels import reciprocal


def test_reciprocals_divide():
    """By the kernel's arithmetic: high half of a product, then a shift."""
    for divisor in (*range(1, 100), 273, 1050, 4096, 65535, 2**20 + 1):
        packed = reciprocal(divisor)
        multiplier, shift = packed >> 32, packed & 0xFFFFFFFF
        assert 0 < multiplier < 2**31
        borders = (x * divisor + y for x in (0, 1, 2, 1000, 2**30 // divisor) for y in (-1, 0))
        for x in (*borders, 2**30 - 1):
            if 0 <= x < 2**30:
                assert (4 * x * multiplier >> 32) >> shift == x // divisor
