"""Record and draw where a network looks. Only modules that draw need matplotlib."""

from .recording import BlockRouting, find_backbone, find_block, record_routing
from .routing_statistics import routing_statistics

__all__ = ['BlockRouting', 'find_backbone', 'find_block', 'record_routing', 'routing_statistics']
