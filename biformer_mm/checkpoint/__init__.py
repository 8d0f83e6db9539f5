"""Read, convert and load checkpoints, the released ones and ours.

``load_pretrained``, which implements ``init_cfg``, needs MMEngine; the rest
needs only torch.
"""

from .load import load_model, load_pretrained
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
