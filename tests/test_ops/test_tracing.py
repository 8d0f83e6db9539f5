import os

import pytest
import torch
from mmengine.utils import digit_version
from torch._subclasses.fake_tensor import FakeTensorMode

from biformer_mm.ops.tracing import constant, holds_values, is_for_others, is_symbolic, is_traced

needs_export = pytest.mark.skipif(
    digit_version('2.6') > digit_version(torch.__version__), reason='PyTorch before 2.6'
)


def run(x):
    """x, and 10 more if its values are known, 100 if the graph is for others, 1000 if traced."""
    return x + 10 * holds_values(x) + 100 * is_for_others() + 1000 * is_traced()


def test_eager():
    assert run(torch.ones(())) == 11


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_compiling'), reason='PyTorch before 2.3')
def test_compiled():
    """The graph is PyTorch's own, and its tensors hold nothing yet."""
    torch._dynamo.reset()
    assert torch.compile(run, backend='eager', fullgraph=True)(torch.ones(())) == 1


def test_traced():
    trace = torch.jit.trace(run, torch.zeros(()), check_trace=False)
    assert trace(torch.ones(())) == 1101


@needs_export
def test_exported():
    class Model(torch.nn.Module):
        def forward(self, x):
            return run(x)

    program = torch.export.export(Model(), (torch.zeros(()),))
    assert program.module()(torch.ones(())) == 101


def test_fake_tensors_hold_no_values():
    with FakeTensorMode():
        assert not holds_values(torch.ones(()))


def test_a_proxy_stands_for_a_tensor():
    graph = torch.fx.symbolic_trace(lambda x: x + 10 * is_symbolic(x))
    assert graph(torch.ones(())) == 11
    assert not is_symbolic(torch.ones(()))


def test_a_constant_is_not_traced():
    @constant
    def three():
        os.listdir('.')  # no compiler takes it
        return 3

    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x * three(), backend='eager', fullgraph=True)
    assert compiled(torch.ones(())) == 3
