"""The embedded demo data set."""
from .shapes import (SHAPES_CLASSES, SHAPES_PALETTE, Scene, make_scene,
                     make_shapes, scene_rng)

__all__ = [
    'SHAPES_CLASSES', 'SHAPES_PALETTE', 'Scene', 'make_scene', 'make_shapes',
    'scene_rng'
]
