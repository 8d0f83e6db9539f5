"""Hooks that tools/train.py adds to a run."""
