"""Layers of the backbone, and attention as a plug-in for other networks."""
