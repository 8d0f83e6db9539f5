"""Complexity of bi-level routing attention."""

from .flops import register_flop_handles

__all__ = ['register_flop_handles']
