"""Region attention in plain PyTorch; needs nothing but torch."""
from .dispatch import (available_backends, region_attention,
                       set_default_backend)
from .region import merge, pad_to_regions, partition
from .routing import routing_index

__all__ = [
    'available_backends', 'merge', 'pad_to_regions', 'partition',
    'region_attention', 'routing_index', 'set_default_backend'
]
