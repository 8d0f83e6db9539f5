"""The demo data set, and checks of data sets in :mod:`.checks`."""

from .layouts import make_shapes
from .shapes import SHAPES_CLASSES, SHAPES_PALETTE, Scene, make_scene, scene_rng

__all__ = ['SHAPES_CLASSES', 'SHAPES_PALETTE', 'Scene', 'make_scene', 'make_shapes', 'scene_rng']
