"""What property tests draw and how they judge a result."""

import numpy as np
import torch
from hypothesis import HealthCheck, settings

# Relative to the largest number expected; half precision rounds to 2**-11 and
# 2**-8, and the backbone does so again after each layer. In fp64 PyTorch's
# fused attention was seen to be 2e-9 off.
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
NAN, INF = float('nan'), float('inf')
# Not an integer; not True or False; not a name.
NO_INTEGER = [None, '2', 'three', 2.0, 2.5, NAN, INF, [2], (), {}, True, 3j, 'auto ', np.float32(2)]
NO_FLAG = [None, 0, 1, 'False', [], 2.5, np.array([True, False])]
NO_NAME = ['', 'cuda', None, 3, 2.5, True, ['cpu'], {}]


def cases(number):
    """The same ones at every run."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_equal(found, expected, tolerance, what):
    assert found.isfinite().all(), what
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    error = (found.double() - expected.double()).abs()
    if error.numel():
        assert error.max() <= tolerance * scale, (what, error.max(), scale)
