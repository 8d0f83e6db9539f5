"""BiFormer for OpenMMLab.

Importing this registers the models and changes nothing else;
:func:`biformer_mm.utils.register_all_modules` does the rest. The ops work without MMEngine:
``import biformer_mm.ops`` needs torch and einops only.
"""

from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine'):
    from .utils.compatibility import check_packages

    check_packages()  # first: what follows may fail with another version
    # Registers them.
    from .engine.hooks import routing_visualization_hook  # noqa: F401
    from .engine.optim import layer_decay_constructor  # noqa: F401

from .models import BiFormer, BiLevelRoutingAttention  # noqa: E402

__all__ = ['BiFormer', 'BiLevelRoutingAttention', '__version__']
