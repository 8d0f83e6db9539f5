"""Compile modules of equal structure one by one, with a shared graph."""

from contextlib import nullcontext
from typing import Any, ContextManager, Dict, Iterable

import torch
from torch import nn


def compile_each(modules: Iterable[nn.Module], **options: Any) -> None:
    """Compile modules in place; those of equal structure share a graph.

    For the whole process, dynamo's ``recompile_limit`` becomes at least 64,
    as all modules count as one function, and its ``use_duck_shape`` False, so
    that sizes which happen to be equal may differ in the next input.

    Args:
        modules: The modules.
        options: Of :func:`torch.compile`. ``fullgraph`` and ``dynamic`` are
            True if not given.

    Raises:
        RuntimeError: PyTorch is older than 2.6.
    """
    if torch.__version__ < (2, 6):
        raise RuntimeError(f'compiling blocks needs PyTorch 2.6 or later; got {torch.__version__}')
    from torch._dynamo import config
    from torch.fx.experimental import _config as shapes

    # Its older name, which PyTorch 2.6 knows as well.
    config.cache_size_limit = max(config.cache_size_limit, 64)
    shapes.use_duck_shape = False
    options = dict(dict(fullgraph=True, dynamic=True), **options)
    if options.get('backend', 'inductor') == 'inductor':
        options = _for_inductor(options)
    for module in modules:
        module.compile(**options)


def eagerly() -> ContextManager:
    """Run compiled modules as they are: a graph knows no hook that was added
    after it was made.
    """
    if hasattr(torch.compiler, 'set_stance'):
        return torch.compiler.set_stance('force_eager')
    return nullcontext()  # PyTorch before 2.6 compiles no blocks


def _for_inductor(options: Dict[str, Any]) -> Dict[str, Any]:
    """Switch off the choice of layouts, which fails in the backward pass of
    convolutions whose sizes are symbols.
    """
    from torch._inductor import list_mode_options

    options = dict(options)
    mode = options.pop('mode', None)
    given = options.get('options') or {}
    if mode is not None:  # torch.compile takes either
        given = dict(list_mode_options(mode), **given)
    options['options'] = dict(dict(layout_optimization=False), **given)
    return options
