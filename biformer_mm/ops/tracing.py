"""Whether a graph is being made, for whom, and whether tensors hold values."""

from typing import Callable

import torch
from torch import Tensor

# Unknown to older PyTorch.
is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)
_ask = getattr(torch.compiler, 'is_exporting', lambda: False)


def constant(function: Callable) -> Callable:
    """Let torch.compile call a function, not look into it, as
    ``torch.compiler.assume_constant_result`` does. That imports torch._dynamo,
    which takes half a second and replaces ``torch.manual_seed``.
    """
    function._dynamo_marked_constant = True
    return function


# torch.compile itself takes is_exporting() for True: it must not look inside.
@constant
def _is_exporting() -> bool:
    return _ask()


def is_for_others() -> bool:
    """Whether a graph is being made to be read elsewhere."""
    return _is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def holds_values(x: Tensor) -> bool:
    """Whether ``x`` is real: no graph is being made, and it has more than a
    shape.
    """
    return type(x) is Tensor and not (is_compiling() or is_for_others())
