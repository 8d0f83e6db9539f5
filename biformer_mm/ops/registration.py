"""Make a backend's pair of functions one differentiable op."""
from typing import Callable, Tuple

import torch

from .flops import count_flops


def register(name: str, forward: Callable, backward: Callable,
             outputs: Callable, gradients: Callable) -> Callable:
    """Register an attention as ``torch.ops.biformer_mm.<name>``.

    It is one node to torch.compile and to FLOP counters. PyTorch before 2.4
    has no registration from Python: there it is an autograd function and runs
    eagerly.

    Args:
        name: Name of the op; ``<name>_backward`` is its gradient's.
        forward: Takes query, key, value, region_index, num_heads, scale,
            valid_h, valid_w (both 0 without a ``valid_size``) and
            attend_padding; returns the output and the log-sum-exp.
        backward: Takes the output's gradient, the four tensors, both outputs
            and the settings; returns the gradients of query, key and value.
        outputs: Takes what ``forward`` does; returns its outputs unfilled.
        gradients: Takes what ``backward`` does; returns its outputs unfilled.

    Returns:
        The op, to be called like ``forward``, by position.
    """
    tensors = 4  # of forward's arguments

    def save(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:tensors], *output)
        ctx.settings = inputs[tensors:]
        # No zeros for the log-sum-exp's gradient, which nobody reads.
        ctx.set_materialize_grads(False)

    def differentiate(ctx, dout, _) -> Tuple:
        rest = None, *(None for _ in ctx.settings)
        if dout is None:
            return (None, None, None, *rest)
        grads = run_backward(dout, *ctx.saved_tensors, *ctx.settings)
        return (*grads, *rest)

    if hasattr(torch.library, 'custom_op'):
        run = torch.library.custom_op(
            f'biformer_mm::{name}', forward, mutates_args=())
        run_backward = torch.library.custom_op(
            f'biformer_mm::{name}_backward', backward, mutates_args=())
        run.register_fake(outputs)
        run_backward.register_fake(gradients)
        run.register_autograd(differentiate, setup_context=save)
        count_flops(name)
        return run

    run_backward = backward

    class Function(torch.autograd.Function):

        @staticmethod
        def forward(ctx, *args):
            output = forward(*args)
            save(ctx, args, output)
            ctx.mark_non_differentiable(output[1])
            return output

        backward = staticmethod(differentiate)

    return Function.apply
