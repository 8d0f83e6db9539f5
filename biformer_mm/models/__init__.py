"""Backbone and attention: MMEngine-registered, or plain without MMEngine."""
from .attention import BiLevelRoutingAttention
from .biformer import BiFormer
from .plugin import BRAPlugin

__all__ = ['BRAPlugin', 'BiFormer', 'BiLevelRoutingAttention']
