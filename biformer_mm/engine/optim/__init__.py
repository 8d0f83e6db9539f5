"""Optimiser constructors for MMEngine."""
