"""The embedded demo data set."""

from .layouts import make_shapes
from .shapes import SHAPES_CLASSES, SHAPES_PALETTE, Scene, make_scene, scene_rng

__all__ = ['SHAPES_CLASSES', 'SHAPES_PALETTE', 'Scene', 'make_scene', 'make_shapes', 'scene_rng']
