"""What all of the block's kernels share; test_backends/ has the results of each."""

import pytest
import torch
from fused_cases import (
    ATTENTIONS,
    DEVICE,
    MAPS,
    arguments,
    attention_case,
    depthwise_case,
    draw,
    norm_case,
    run,
)
from torch.utils.flop_counter import FlopCounterMode

from biformer_mm.ops import fused
from biformer_mm.ops.backends import block_reference

pytest.importorskip('triton', minversion='3.0')

needs_custom_op = pytest.mark.skipif(
    not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4'
)


CASES = {
    'layer_norm': norm_case((2, 3, 5, 24)),
    'add_layer_norm': norm_case((2, 3, 5, 24), True),
    'add_depthwise': depthwise_case(MAPS['a margin'], 3),
    'attention_with_lce': attention_case(ATTENTIONS['legacy padding']),
}


@pytest.mark.parametrize('name', CASES)
def test_equal_bit_for_bit_and_nothing_is_left_unwritten(name):
    """Twice the same, with nan in all memory that is not filled."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first, second = (run(fused, name, CASES[name], torch.float32) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for x, y in zip(first, second):
        assert x.isfinite().all() and torch.equal(x, y)


@needs_custom_op
@pytest.mark.parametrize('name', CASES)
def test_is_well_registered(name):
    """Schema, shapes, strides and autograd, by PyTorch's own check."""
    maps, weights, settings = CASES[name]
    tensors = [
        x.to(DEVICE).requires_grad_(x.is_floating_point()) for x in arguments(name, maps, weights)
    ]
    torch.library.opcheck(getattr(torch.ops.biformer_mm, name).default, (*tensors, *settings))


@needs_custom_op
@pytest.mark.parametrize('name', CASES)
def test_a_compiled_graph_holds_the_op(name):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    maps, weights, settings = CASES[name]
    tensors = [x.to(DEVICE) for x in arguments(name, maps, weights)]
    function = getattr(fused, name)
    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    found = compiled(*tensors, *settings)
    torch.testing.assert_close(found, function(*tensors, *settings))
    (graph,) = graphs
    assert f'biformer_mm.{name}' in graph.code


@needs_custom_op
@pytest.mark.parametrize('name', ['add_depthwise', 'attention_with_lce'])
def test_as_many_flops_as_of_pytorch(name):
    """But for the gradients of softmax's weights, which attention computes
    anew: five products in the place of four."""
    counts = []
    for module in (fused, block_reference):
        maps, weights, settings = (
            CASES['add_depthwise']
            if (name == 'add_depthwise')
            else attention_case(ATTENTIONS['whole'])
        )
        if name == 'add_depthwise':  # the reference computes the margin, too
            maps = [maps[0], draw(*maps[0].shape)]
        tensors = [x.to(DEVICE) for x in arguments(name, maps, weights)]
        with FlopCounterMode(display=False) as counter:
            getattr(module, name)(*tensors, *settings)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


class TestWhoIsServed:
    def test_nobody_on_a_cpu(self):
        x = torch.zeros(1, 2, 2, 16)
        for reason in (
            fused.unsupported_reason(x),
            fused.norm_reason(x),
            fused.depthwise_reason(x, x),
            fused.routing_reason(x.view(1, 1, 1, 2, 2, 16), x.view(1, 1, 1, 2, 2, 16)),
        ):
            assert 'not on cpu' in reason
