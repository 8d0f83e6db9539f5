"""Apply the rules about configs to changed demo configs."""

import copy
from functools import lru_cache

import config_checks

from biformer_mm.datasets.checks.problems import KINDS
from biformer_mm.engine.config_rules import check_config

DETECTOR = 'retinanet_biformer_demo'
MASKS = 'mask_rcnn_biformer_demo'
SEGMENTOR = 'upernet_biformer_demo'
CLASSIFIER = 'biformer_demo'
LABELS = 'biformer_token_label_demo'


_read = lru_cache(config_checks.load)


def load(name):
    """A config of its own for each test, read once."""
    return copy.deepcopy(_read(name))


def problems(name, changes, splits=('train', 'val'), options=()):
    """The problems of a config after ``changes``, a dict of keys as after --cfg-options."""
    cfg = load(name)
    cfg.merge_from_dict(changes)
    return list(check_config(cfg, splits, options))


def found(*args, **kwargs):
    """The kinds of the problems and the keys that they name."""
    return {(problem.kind, problem.file) for problem in problems(*args, **kwargs)}


def assert_one_line(problem):
    """A problem is a kind with a severity, a key, and one line that ends with the cure."""
    assert problem.kind in KINDS
    assert '\n' not in problem.detail and ' set ' in f' {problem.detail}', problem
