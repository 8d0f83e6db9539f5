"""Layers of the backbone."""
