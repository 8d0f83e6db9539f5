"""Costs of models, and curves of training logs."""

from .flops import register_flop_handles

__all__ = ['register_flop_handles']
