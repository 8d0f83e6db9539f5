"""Implementations of the ops; dispatch.py chooses among them."""
