"""The recipes that tests of all recipes run in the first tier."""

from typing import List

import pytest
from config_checks import NAMES

# One of each kind of model.
FIRST = (
    'biformer_t_in1k',
    'mask_rcnn_biformer_t_1x',
    'retinanet_biformer_t_1x',
    'semantic_fpn_biformer_t_80k',
)
# Ablations and other attentions, which differ from a recipe in one thing, come last.
CONFIGS = (*FIRST, *sorted(set(NAMES) - set(FIRST), key=lambda name: ('/' in name, name)))


def marks(config: str) -> List[pytest.MarkDecorator]:
    """Those of a config's tests."""
    return [] if config in FIRST else [pytest.mark.slow]
