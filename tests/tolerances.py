"""How far the backends may be from the reference in fp64: the one table, which
docs/numerics.md shows, and how tests hold a backend against it."""

import torch

from biformer_mm.ops import region_attention

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
# (output, gradients), as relative_rms has it. On CPUs twice to four times the
# largest error seen. GPUs have one row for all backends, triton's interpreter
# included.
TOLERANCES = {
    ('reference', 'cpu'): {FP32: (2e-6, 3e-6), FP16: (6e-4, 1e-3), BF16: (5e-3, 5e-3)},
    ('sdpa', 'cpu'): {FP32: (2e-6, 4e-6), FP16: (6e-4, 3e-3), BF16: (5e-3, 2e-2)},
    ('portable', 'cpu'): {FP32: (2e-6, 2e-6), FP16: (6e-4, 6e-4), BF16: (5e-3, 5e-3)},
    ('cpu', 'cpu'): {FP32: (2e-6, 6e-6), FP16: (6e-4, 3e-3), BF16: (5e-3, 2e-2)},
    ('triton', 'cuda'): {FP32: (1e-5, 1e-5), FP16: (3e-3, 3e-3), BF16: (2e-2, 2e-2)},
}


def tolerances(backend, device, dtype):
    """(of the output, of the gradients)."""
    on_gpu = TOLERANCES['triton', 'cuda']
    return TOLERANCES.get((backend, device), on_gpu)[dtype]


def relative_rms(found, exact):
    """Root mean square of the error over that of the exact values or 0.1,
    the larger: inputs have 1, and where a query has one key its gradient is
    zero but for rounding."""

    def rms(x):
        return float(x.double().square().mean().sqrt())

    return rms(found.double() - exact) / max(rms(exact), 0.1)


def make_inputs(case, device, dtype, seed=0):
    """q, k and v as slices of one projection of a map, a routing index that
    the regions share unevenly, and the op's options.

    Args:
        case: N, Sh, Sw, h, w, heads, head dim, k, valid size, attend padding.
    """
    (n, sh, sw, h, w, heads, head_dim, topk, valid_size, attend_padding) = case
    generator = torch.Generator().manual_seed(seed)
    channels = heads * head_dim
    projection = torch.randn(n, sh * h, sw * w, 3 * channels, generator=generator)
    regions = projection.view(n, sh, h, sw, w, -1).transpose(2, 3)
    qkv = regions.to(device, dtype).chunk(3, dim=-1)
    taste = torch.rand(sh * sw, generator=generator)
    index = (taste + 0.5 * torch.rand(n, sh * sw, sh * sw, generator=generator)).topk(topk).indices
    return (
        qkv,
        index.to(device),
        dict(num_heads=heads, scale=0.3, valid_size=valid_size, attend_padding=attend_padding),
    )


def attend(qkv, index, options, backend, dtype=None):
    """Output and gradients, of a loss that weighs all outputs differently."""
    weights = torch.randn(qkv[0].shape, generator=torch.Generator().manual_seed(1)).to(qkv[0])
    qkv = [x.detach().to(dtype or x.dtype).requires_grad_() for x in qkv]
    out = region_attention(*qkv, index, **options, backend=backend)
    out.backward(weights.to(out))
    return dict(zip(('o', 'dq', 'dk', 'dv'), (out.detach(), *(x.grad for x in qkv))))


def assert_within(backend, case, device, dtype, seed=0):
    """Output and gradients are as near the reference in fp64 as the table
    says."""
    qkv, index, options = make_inputs(case, device, dtype, seed)
    found = attend(qkv, index, options, backend)
    exact = attend(qkv, index, options, 'reference', torch.float64)
    of_output, of_gradients = tolerances(backend, device, dtype)
    for name, value in found.items():
        assert value.dtype == dtype and value.isfinite().all(), name
        error = relative_rms(value, exact[name])
        tolerance = of_output if name == 'o' else of_gradients
        assert error <= tolerance, (
            f'{name} of {backend}, {dtype}, {case}: {error:.1e}, not {tolerance:.0e}'
        )
