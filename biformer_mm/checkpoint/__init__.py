"""Checkpoints, released and ours: names, safe reading, strict loading.

``load_pretrained``, which carries out ``init_cfg``, and ``load_model`` need
MMEngine; the rest needs torch alone.
"""

from .load import load_pretrained
from .load_model import load_model
from .names import convert_state_dict
from .read import CheckpointError, read_checkpoint
from .whole_model import WholeModel, convert_model

__all__ = [
    'CheckpointError',
    'WholeModel',
    'convert_model',
    'convert_state_dict',
    'load_model',
    'load_pretrained',
    'read_checkpoint',
]
