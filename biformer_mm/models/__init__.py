"""MMEngine-registered backbone and attention."""
from .attention import BiLevelRoutingAttention
from .biformer import BiFormer

__all__ = ['BiFormer', 'BiLevelRoutingAttention']
