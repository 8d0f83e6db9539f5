"""BiFormer for OpenMMLab: importing this registers the models, and changes
nothing else; see :func:`biformer_mm.utils.register_all_modules` for the rest.

The ops work without MMEngine, so ``import biformer_mm.ops`` needs torch alone.
"""

from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine'):
    from .utils.compatibility import check_packages

    check_packages()  # first: what follows may fail with another version
    from .engine.hooks import routing_visualization_hook  # noqa: F401  (registers it)

from .models import BiFormer, BiLevelRoutingAttention  # noqa: E402

__all__ = ['BiFormer', 'BiLevelRoutingAttention', '__version__']
