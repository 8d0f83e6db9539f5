"""Pictures of where a network looks. Needs matplotlib for figures alone."""
from .hook import RoutingVisualizationHook
from .recording import (BlockRouting, find_backbone, find_block,
                        record_routing)
from .statistics import routing_statistics

__all__ = [
    'BlockRouting', 'RoutingVisualizationHook', 'find_backbone', 'find_block',
    'record_routing', 'routing_statistics'
]
