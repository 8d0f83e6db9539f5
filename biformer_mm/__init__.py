"""BiFormer for OpenMMLab: importing this registers the backbone.

The ops work without MMEngine, so ``import biformer_mm.ops`` needs torch alone.
"""
from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine'):
    from .compatibility import check_packages
    check_packages()  # first: what follows may fail with another version

    from . import models, visualization  # noqa: F401
    from .analysis import register_flop_handles
    from .engine import (compiling, hang, nonfinite, preemption,  # noqa: F401
                         saving, seeding)
    from .engine.packages import find_mmseg_configs, find_own_configs

    register_flop_handles()
    find_mmseg_configs()
    find_own_configs()

__all__ = ['__version__']
