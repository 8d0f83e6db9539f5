"""Register a forward and a backward function as one differentiable op."""

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

    For torch.compile and FLOP counters the op is a single node. PyTorch before 2.4 cannot register
    ops from Python: there it is an autograd function, and runs eagerly only.

    The defaults fit an attention: it takes query, key, value, region_index and settings, and
    returns the output and the log-sum-exp.

    Args:
        name: Name of the op. The op of its gradient is named ``<name>_backward``.
        forward: Takes tensors, then settings. Returns a tensor or a tuple of tensors.
        backward: Takes the gradients of the results, the kept tensors and the settings. Returns a
            tuple of gradients.
        outputs: Takes the arguments of ``forward``. Returns its outputs, not filled.
        gradients: Takes the arguments of ``backward``. Returns its outputs, not filled.
        gradient_of: The index of the gradient of each input tensor, among the outputs of
            ``backward`` followed by the gradients of the results. None for no gradient.
        results: The number of outputs that have a gradient; they come first. The other outputs
            serve ``backward`` only.
        keep: Takes the input tensors and the outputs. Returns those that ``backward`` needs.
        count: The FLOPs of ``forward`` and of ``backward`` as functions of their arguments, see
            :mod:`.flops`. Empty if PyTorch counts none for such an op.

    Returns:
        The op. Its arguments are those of ``forward``, by position.
    """
    tensors = len(gradient_of)
    run_backward = backward

    def save(ctx, inputs, output) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.save_for_backward(*keep(inputs[:tensors], outputs))
        ctx.settings = inputs[tensors:]
        # Make no zeros for the gradients of unused outputs.
        ctx.set_materialize_grads(False)

    def differentiate(ctx, *given) -> Tuple:
        given = given[:results]
        rest = (None,) * len(ctx.settings)
        known = [x for x in given if x is not None]
        if not known:
            return (None,) * tensors + rest
        # If an op has two results, they have the same shape.
        douts = [torch.zeros_like(known[0]) if x is None else x for x in given]
        grads = run_backward(*douts, *ctx.saved_tensors, *ctx.settings)
        grads = (*grads, *douts)
        return (*(None if i is None else grads[i] for i in gradient_of), *rest)

    if hasattr(torch.library, 'custom_op'):
        run = torch.library.custom_op(f'biformer_mm::{name}', forward, mutates_args=())
        backward_op = torch.library.custom_op(
            f'biformer_mm::{name}_backward', backward, mutates_args=()
        )
        run.register_fake(outputs)
        backward_op.register_fake(gradients)
        run.register_autograd(differentiate, setup_context=save)
        run_backward = backward_op
        for op, formula in zip((name, f'{name}_backward'), count):
            flops.count_flops(op, formula)
        return run

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
    """Register a function without gradient; see :func:`register`.

    Args:
        name: Name of the op.
        forward: Takes tensors, then settings. Returns a tensor.
        outputs: Takes the arguments of ``forward``. Returns its output, not filled.
        count: The FLOPs of ``forward`` as a function of its arguments.

    Returns:
        The op. Its arguments are those of ``forward``, by position.
    """
    if not hasattr(torch.library, 'custom_op'):
        return forward
    run = torch.library.custom_op(f'biformer_mm::{name}', forward, mutates_args=())
    run.register_fake(outputs)
    flops.count_flops(name, count)
    return run
