"""Find what is wrong in a config before anything is built."""

from typing import Collection, Iterator, Sequence

from mmengine.config import Config

from biformer_mm.datasets.checks.problems import Problem

from . import (
    classes,
    evaluations,
    flips,
    labels,
    limits,
    losses,
    optimizers,
    pictures,
    schedules,
    splits,
)
from .options import check_options

# The classes first: wrong ones explain what the others find.
_RULES = (
    *classes.RULES,
    *labels.RULES,
    *pictures.RULES,
    *losses.RULES,
    *optimizers.RULES,
    *schedules.RULES,
    *evaluations.RULES,
    *limits.RULES,
    *flips.RULES,
    *splits.RULES,
)


def check_config(
    cfg: Config, splits: Sequence[str], options: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield what makes a training useless, or an evaluation wrong, by the config alone.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        splits: Those that the run uses, of 'train', 'val' and 'test'.
        options: Keys of ``--cfg-options``.

    Yields:
        Problems; ``file`` is the key to change, as after ``--cfg-options``.

    Raises:
        UsageError: A data set is not a dict.
    """
    yield from check_options(cfg, options)
    for rule in _RULES:
        yield from rule(cfg, splits)
