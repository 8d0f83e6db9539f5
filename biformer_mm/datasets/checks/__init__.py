"""Find the problems of a data set before training on it."""

from .problems import KINDS, SEVERITIES, Problem
from .quick import count
from .scanning import Found, plan, scan

__all__ = ['KINDS', 'SEVERITIES', 'Found', 'Problem', 'count', 'plan', 'scan']
