"""Ask whether a graph is being made, for whom, and whether tensors hold values."""

from typing import Callable

import torch
from torch import Tensor

# Missing in older PyTorch.
is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)
_ask = getattr(torch.compiler, 'is_exporting', lambda: False)


def constant(function: Callable) -> Callable:
    """Make torch.compile call a function and take its result for a constant.

    ``torch.compiler.assume_constant_result`` does the same, but imports torch._dynamo, which takes
    half a second and replaces ``torch.manual_seed``.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# torch.compile takes is_exporting() for True if it traces the call.
@constant
def _is_exporting() -> bool:
    return _ask()


def is_traced() -> bool:
    """Return whether torch.jit.trace or an ONNX exporter makes a graph."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def is_for_others() -> bool:
    """Return whether a graph is being made for other software to read, also by torch.export."""
    return _is_exporting() or is_traced()


def holds_values(x: Tensor) -> bool:
    """Return whether the values of ``x`` can be read.

    They cannot while a graph is being made, nor in fake tensors and the like.
    """
    return type(x) is Tensor and not (is_compiling() or is_for_others())


def is_symbolic(x: object) -> bool:
    """Return whether ``x`` stands for a tensor in a graph, as torch.fx's ``Proxy`` does."""
    return isinstance(x, torch.fx.Proxy)
