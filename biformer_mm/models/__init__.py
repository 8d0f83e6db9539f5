"""The backbone and its attention, registered in MMEngine if that is installed."""

from .backbones.biformer import BiFormer
from .layers.attention import BiLevelRoutingAttention
from .layers.bra_plugin import BRAPlugin

__all__ = ['BRAPlugin', 'BiFormer', 'BiLevelRoutingAttention']
