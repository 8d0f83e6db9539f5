"""Region attention, routing, and the cutting of maps; needs torch and einops only."""

from .dispatch import available_backends, region_attention, set_default_backend
from .region import auto_num_regions, merge, pad_to_regions, partition
from .routing import routing_index

__all__ = [
    'auto_num_regions',
    'available_backends',
    'merge',
    'pad_to_regions',
    'partition',
    'region_attention',
    'routing_index',
    'set_default_backend',
]
