"""Make a pair of functions one differentiable op."""

from typing import Callable, Optional, Sequence, Tuple

import torch

from . import flops


def register(
    name: str,
    forward: Callable,
    backward: Callable,
    outputs: Callable,
    gradients: Callable,
    gradient_of: Sequence[Optional[int]] = (0, 1, 2, None),
    results: int = 1,
    keep: Callable = lambda inputs, outputs: (*inputs, *outputs),
    count: Sequence[Callable] = (flops.attention, flops.attention_backward),
) -> Callable:
    """Register functions as ``torch.ops.biformer_mm.<name>``.

    It is one node to torch.compile and to FLOP counters. PyTorch before 2.4
    has no registration from Python: there it is an autograd function and runs
    eagerly.

    The defaults are an attention's: it takes query, key, value, region_index
    and its settings, and returns the output and the log-sum-exp.

    Args:
        name: Name of the op; ``<name>_backward`` is its gradient's.
        forward: Takes tensors, then other settings; returns a tensor or a
            tuple of tensors.
        backward: Takes the gradients of the results, what is kept, and the
            settings; returns a tuple of gradients.
        outputs: Takes what ``forward`` does; returns its outputs unfilled.
        gradients: Takes what ``backward`` does; returns its outputs unfilled.
        gradient_of: For each of the tensors, which of ``backward``'s outputs
            is its gradient, or, counted on, which result's own gradient; None
            where it has none.
        results: How many of the outputs, from the first, have a gradient. The
            others are for ``backward`` alone.
        keep: Takes the tensors and the outputs; returns those of them that
            ``backward`` needs.
        count: FLOPs of ``forward`` and ``backward`` from their arguments, see
            :mod:`.flops`; empty where PyTorch counts none.

    Returns:
        The op, to be called like ``forward``, by position.
    """
    tensors = len(gradient_of)

    def save(ctx, inputs, output) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.save_for_backward(*keep(inputs[:tensors], outputs))
        ctx.settings = inputs[tensors:]
        # No zeros for gradients of outputs that nobody reads.
        ctx.set_materialize_grads(False)

    def differentiate(ctx, *douts) -> Tuple:
        douts = douts[:results]
        rest = (None,) * len(ctx.settings)
        known = [x for x in douts if x is not None]
        if not known:
            return (None,) * tensors + rest
        # Where an op has two results they are of one shape.
        douts = [torch.zeros_like(known[0]) if x is None else x for x in douts]
        grads = run_backward(*douts, *ctx.saved_tensors, *ctx.settings)
        grads = (*grads, *douts)
        return (*(None if i is None else grads[i] for i in gradient_of), *rest)

    if hasattr(torch.library, 'custom_op'):
        run = torch.library.custom_op(f'biformer_mm::{name}', forward, mutates_args=())
        run_backward = torch.library.custom_op(
            f'biformer_mm::{name}_backward', backward, mutates_args=()
        )
        run.register_fake(outputs)
        run_backward.register_fake(gradients)
        run.register_autograd(differentiate, setup_context=save)
        for op, formula in zip((name, f'{name}_backward'), count):
            flops.count_flops(op, formula)
        return run

    run_backward = backward

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            output = forward(*args)
            save(ctx, args, output)
            if isinstance(output, tuple):
                ctx.mark_non_differentiable(*output[results:])
            return output

        backward = staticmethod(differentiate)

    return Function.apply


def register_constant(name: str, forward: Callable, outputs: Callable, count: Callable) -> Callable:
    """Register a function without gradient, as :func:`register` does.

    Args:
        name, forward, outputs: As there.
        count: FLOPs of ``forward``, from its arguments.
    """
    if not hasattr(torch.library, 'custom_op'):
        return forward
    run = torch.library.custom_op(f'biformer_mm::{name}', forward, mutates_args=())
    run.register_fake(outputs)
    flops.count_flops(name, count)
    return run
