"""The parts of MMEngine that the models use, with substitutes if it is not installed.

Without MMEngine the models are plain PyTorch modules.
"""

import logging
from importlib.util import find_spec
from typing import Any, Dict, Optional

from torch import nn

if find_spec('mmengine'):
    from mmengine.logging import print_log
    from mmengine.model import BaseModule
    from mmengine.registry import MODELS

    register = MODELS.register_module()
else:

    class BaseModule(nn.Module):  # type: ignore[no-redef]
        """Stand in for MMEngine's BaseModule, without initialisation by config.

        Raises:
            ModuleNotFoundError: ``init_cfg`` is not None.
        """

        def __init__(self, init_cfg: Optional[Dict] = None) -> None:
            if init_cfg is not None:
                raise ModuleNotFoundError(
                    'init_cfg is carried out by MMEngine, which is not '
                    'installed: install it, or leave init_cfg out and use '
                    f'load_state_dict; got {init_cfg=}'
                )
            super().__init__()
            self.init_cfg = None

        def init_weights(self) -> None:
            """Do nothing, as the constructors initialise the weights."""

    def register(module: type) -> type:
        """Return the class unchanged, as there is no registry."""
        return module

    def print_log(msg: str, logger: Any = None, level: int = logging.INFO) -> None:
        """Write to Python's log as a warning, because it does not show less by default."""
        logging.getLogger('biformer_mm').warning(msg)


__all__ = ['BaseModule', 'print_log', 'register']
