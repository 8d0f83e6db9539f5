"""One op of two results: scale * x**2 * y + added, and x * y."""

from math import prod
from typing import Tuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from biformer_mm.ops.registration import register, register_constant

needs_custom_op = pytest.mark.skipif(
    not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4'
)


def forward(x: Tensor, y: Tensor, added: Tensor, scale: float) -> Tuple[Tensor, Tensor]:
    return scale * x * x * y + added, x * y


def backward(
    dfirst: Tensor, dsecond: Tensor, x: Tensor, y: Tensor, scale: float
) -> Tuple[Tensor, Tensor]:
    return 2 * scale * x * y * dfirst + y * dsecond, scale * x * x * dfirst + x * dsecond


@pytest.fixture(
    scope='module', params=[pytest.param('custom op', marks=needs_custom_op), 'autograd function']
)
def op(request):
    """The op, and as it is registered where PyTorch has no custom ops."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == 'autograd function':
            patch.delattr(torch.library, 'custom_op', raising=False)
        return register(
            'of_a_test',
            forward,
            backward,
            outputs=lambda x, *_: (torch.empty_like(x), torch.empty_like(x)),
            gradients=lambda dfirst, dsecond, x, y, scale: (
                torch.empty_like(x),
                torch.empty_like(y),
            ),
            gradient_of=(0, 1, 2),  # of what is added: that of the first result
            results=2,
            keep=lambda inputs, outputs: inputs[:2],
            count=(
                lambda x, *_, **options: 3 * prod(x),
                lambda dfirst, *_, **options: 7 * prod(dfirst),
            ),
        )


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]


def test_gradients_are_those_of_the_function(op):
    assert torch.autograd.gradcheck(lambda *inputs: op(*inputs, 0.3), make_inputs())


@pytest.mark.parametrize('used', [0, 1])
def test_the_other_result_may_be_unused(op, used):
    inputs = make_inputs()
    found = torch.autograd.grad(op(*inputs, 0.3)[used].sum(), inputs)
    result = forward(*inputs, 0.3)[used].sum()
    expected = torch.autograd.grad(result, inputs, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('op', ['custom op'], indirect=True)
@needs_custom_op
def test_flops_of_both_directions_are_counted(op):
    inputs = make_inputs()
    with FlopCounterMode(display=False) as counter:
        out = op(*inputs, 0.3)[0]
    assert counter.get_total_flops() == 3 * 6
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 7 * 6


@pytest.mark.parametrize('op', ['custom op'], indirect=True)
@needs_custom_op
def test_is_one_node_for_compilers(op):
    """Schema, shapes and autograd by PyTorch's own check."""
    torch.library.opcheck(op, (*make_inputs(), 0.3))


@needs_custom_op
def test_a_constant_is_counted_and_has_no_gradient():
    def signs(x: Tensor, factor: int) -> Tensor:
        return x.sign() * factor

    op = register_constant(
        'signs_of_a_test', signs, lambda x, factor: torch.empty_like(x), lambda x, *_, **__: prod(x)
    )
    x = torch.randn(2, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = op(x, 2)
    torch.testing.assert_close(out.detach(), 2 * x.detach().sign())
    assert counter.get_total_flops() == 6
    torch.library.opcheck(op, (x.detach(), 2))


def test_a_constant_without_custom_ops_is_the_function(monkeypatch):
    monkeypatch.delattr(torch.library, 'custom_op', raising=False)
    assert register_constant('none', forward, forward, prod) is forward
