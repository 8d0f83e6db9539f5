"""Compile modules one by one; modules of the same structure share a graph."""

from contextlib import nullcontext
from typing import Any, ContextManager, Dict, Iterable

import torch
from torch import nn


def compile_each(modules: Iterable[nn.Module], **options: Any) -> None:
    """Compile modules in place; those of the same structure share a graph.

    This changes two settings of dynamo for the whole process. ``recompile_limit`` becomes at least
    64, because all the modules count as one function. ``use_duck_shape`` becomes False, so that
    sizes which are equal in one input may differ in the next.

    Args:
        modules: The modules.
        options: Options of :func:`torch.compile`. ``fullgraph`` and ``dynamic`` default to True.

    Raises:
        RuntimeError: PyTorch is older than 2.6.
    """
    if torch.__version__ < '2.6':  # compares versions, not text
        raise RuntimeError(f'compiling blocks needs PyTorch 2.6 or later; got {torch.__version__}')
    from torch._dynamo import config
    from torch.fx.experimental import _config as shapes

    # The old name of recompile_limit, which PyTorch 2.6 and later know.
    config.cache_size_limit = max(config.cache_size_limit, 64)
    shapes.use_duck_shape = False
    options = dict(dict(fullgraph=True, dynamic=True), **options)
    if options.get('backend', 'inductor') == 'inductor':
        options = _for_inductor(options)
    for module in modules:
        module.compile(**options)


def eagerly() -> ContextManager:
    """Return a context in which compiled modules run uncompiled.

    Forward hooks need it that were added after the compilation, as a graph ignores these.
    """
    if hasattr(torch.compiler, 'set_stance'):
        return torch.compiler.set_stance('force_eager')
    return nullcontext()  # PyTorch before 2.6 does not compile blocks


def _for_inductor(options: Dict[str, Any]) -> Dict[str, Any]:
    """Add an option that switches inductor's layout optimisation off.

    It fails in the backward pass of convolutions with symbolic sizes.
    """
    from torch._inductor import list_mode_options

    options = dict(options)
    mode = options.pop('mode', None)
    given = options.get('options') or {}
    if mode is not None:  # torch.compile takes a mode or options, not both
        given = dict(list_mode_options(mode), **given)
    options['options'] = dict(dict(layout_optimization=False), **given)
    return options
