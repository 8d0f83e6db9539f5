"""Backbone and attention: MMEngine-registered, or plain without MMEngine."""

from .backbones.biformer import BiFormer
from .layers.attention import BiLevelRoutingAttention
from .layers.bra_plugin import BRAPlugin

__all__ = ['BRAPlugin', 'BiFormer', 'BiLevelRoutingAttention']
