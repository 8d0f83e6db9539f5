"""Finding what is wrong with a data set before anything is trained on it."""
from .problems import KINDS, SEVERITIES, Problem
from .scanning import plan, scan

__all__ = ['KINDS', 'SEVERITIES', 'Problem', 'plan', 'scan']
