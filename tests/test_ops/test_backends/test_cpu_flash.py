"""PyTorch's private attention for CPUs against softmax by hand, in fp64."""

import pytest
import torch
from fused_cases import draw

from biformer_mm.ops.backends import cpu_flash

pytestmark = pytest.mark.skipif(not cpu_flash.AVAILABLE, reason='PyTorch before 2.4')


def attend(query, key, value, num_heads, scale, bias):
    """The output and the log-sum-exp of the scores."""
    q, k, v = (x.unflatten(2, (num_heads, -1)) for x in (query, key, value))
    scores = scale * torch.einsum('blmd,bkmd->blmk', q, k)
    if bias is not None:
        scores = scores + bias.transpose(1, 2)
    out = torch.einsum('blmk,bkmd->blmd', scores.softmax(-1), v)
    return out.flatten(2), scores.logsumexp(-1)


@pytest.mark.parametrize('layout', ['contiguous', 'channels first'])
@pytest.mark.parametrize('bias', [None, (2, 1, 1, 7), (2, 1, 5, 7)])
def test_results_and_gradients(bias, layout):
    inputs = [draw(2, n, 8, seed=n).double() for n in (5, 7, 7)]
    inputs[2] = draw(2, 7, 8).double()
    if layout == 'channels first':
        inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    bias = None if bias is None else draw(*bias, seed=3).double()
    options = (2, 0.3)
    out, lse = cpu_flash.attend(*inputs, *options, bias)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = attend(*leaves, *options, bias)
    torch.testing.assert_close((out, lse), tuple(x.detach() for x in expected))
    dout = draw(2, 5, 8, seed=4).double()
    found = cpu_flash.attend_backward(dout, *inputs, out, lse, *options, bias)
    torch.testing.assert_close(found, torch.autograd.grad(expected[0], leaves, dout))
