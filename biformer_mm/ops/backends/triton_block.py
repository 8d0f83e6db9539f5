"""Decide which GPUs and tensors the kernels of :mod:`biformer_mm.ops.fused` serve.

This includes their self-check on a GPU on which they have not run before.
"""

from functools import partial
from typing import Callable, Optional, Sequence

import torch
from torch import Tensor

from .. import self_check
from ..tracing import constant, holds_values
from . import block_reference, triton


def unsupported_reason(x: Tensor) -> Optional[str]:
    """Return why the kernels cannot serve a tensor, or None if they can."""
    reason = triton.unsuitable(x.device)
    if reason:
        return reason
    if x.dtype not in triton.DTYPES:
        return f'its kernels take fp32, fp16 and bf16, not {x.dtype}'
    if x.shape[0] == 0:
        return 'an empty batch starts no kernel'
    return triton.too_large(x) or _fault_of(x)


def refuse_faulty(x: Tensor) -> None:
    """Raise RuntimeError if the self-check found the kernels wrong.

    For compiled models, which run the kernels without asking first.
    """
    reason = _fault_of(x)
    if reason:
        raise RuntimeError(
            f"the block's kernels must not run, as {reason}; "
            'set BIFORMER_MM_BACKEND=sdpa, or compile again'
        )


def _fault_of(x: Tensor) -> Optional[str]:
    if triton.interpreted():
        return None
    may_run = holds_values(x) and not torch.cuda.is_current_stream_capturing()
    return _fault(x.device, x.dtype, may_run)


@constant
def _fault(device: torch.device, dtype: torch.dtype, may_run: bool) -> Optional[str]:
    return self_check.fault(
        device, f"block's, {dtype}", partial(first_error, device, dtype), may_run
    )


def first_error(device: torch.device, dtype: torch.dtype) -> Optional[str]:
    """Run each op on a small problem and describe the first error, or return None."""
    from .. import fused

    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    x, added = draw(1, 7, 9, 48), draw(1, 7, 9, 48)
    weight, bias, conv = draw(48), draw(48), draw(48, 1, 5, 5) / 5
    qkv = draw(1, 8, 10, 3 * 48)
    index = torch.randint(4, (1, 4, 2), generator=random)
    problems = [
        ('layer_norm', (x, weight, bias), (1e-6,)),
        ('add_layer_norm', (x, added, weight, bias), (1e-6,)),
        ('add_depthwise', (x, conv, bias, added[:, :6, :8]), ()),
    ]
    for masked in (False, True):
        problems.append(('attention_with_lce', (qkv, conv, bias, index), (2, 2, 0.3, 7, 9, masked)))
    for name, tensors, settings in problems:
        for error in errors(
            getattr(fused, name), getattr(block_reference, name), tensors, settings, device, dtype
        ):
            tolerance = self_check.tolerance(dtype)
            if not error <= tolerance:  # true for nan, too
                return f'{name} is off by {error:.1e}, more than {tolerance:.0e}'
    # Integers, so that every order of summation is exact and there are ties. The second shape has
    # so many tokens that the means get their own kernel.
    for shape in ((2, 4, 5, 2, 4, 48), (1, 4, 4, 9, 8, 16)):
        query, key = (torch.randint(-2, 3, shape, generator=random) for _ in range(2))
        affinity = (
            query.double().sum((3, 4)).flatten(1, 2) @ key.double().sum((3, 4)).flatten(1, 2).mT
        )
        best = affinity.sort(dim=-1, descending=True, stable=True).indices
        found = fused.routing(query.to(device, dtype), key.to(device, dtype), 6, None)
        if not torch.equal(found.cpu(), best[..., :6]):
            return 'routing chooses other regions'
    return None


def errors(
    op: Callable,
    reference: Callable,
    tensors: Sequence[Tensor],
    settings: Sequence,
    device: torch.device,
    dtype: torch.dtype,
) -> Sequence[float]:
    """Compare the results and gradients of an op with a reference in fp64.

    As under autocast, maps are in ``dtype`` and weights in fp32.

    Returns:
        The relative errors of the results, then those of the gradients.
    """

    def of_maps(x: Tensor) -> Tensor:
        floating = x.is_floating_point() and x.dim() == 4 and x.shape[1] > 1
        return x.to(dtype) if floating else x

    tensors = [of_maps(x).to(device) for x in tensors]

    def run(function: Callable, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in tensors]
        found = function(*leaves, *settings)
        found = found if isinstance(found, tuple) else (found,)
        random = torch.Generator().manual_seed(1)
        douts = [torch.randn(x.shape, generator=random).to(x) for x in found]
        floating = [x for x in leaves if x.requires_grad]
        return [x.detach().cpu() for x in (*found, *torch.autograd.grad(found, floating, douts))]

    exact = run(
        reference, [x.double().cpu() if x.is_floating_point() else x.cpu() for x in tensors]
    )
    return [self_check.relative_rms(x, y) for x, y in zip(run(op, tensors), exact)]
