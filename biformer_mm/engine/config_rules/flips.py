"""Find flips that turn a picture of one class into one of another."""

from typing import Dict, Iterator, Sequence, Set

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

from .parts import classes_of, data_sets, steps

_SIDES = ('left', 'right')


def check_flips(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Warn of flips to the side where classes are told apart by left and right."""
    for option, dataset in data_sets(cfg, [split for split in splits if split == 'train']):
        pair = _mirrored(classes_of(cfg, dataset) or ())
        for key, step in steps(f'{option}.pipeline', dataset.get('pipeline')) if pair else ():
            if bare_type_name(step) != 'RandomFlip' or step.get('swap_seg_labels'):
                continue
            if 'horizontal' in str(step.get('direction', 'horizontal')):
                yield Problem(
                    'mirrored-classes',
                    key,
                    f'a flip makes {pair[0]!r} of {pair[1]!r}, and the label stays; leave this '
                    'step out, or set direction=vertical (in mmseg, swap_seg_labels)',
                )
                return


def _mirrored(classes: Sequence[str]) -> Sequence[str]:
    """Return two classes whose names differ in left and right only, or ()."""
    known: Set[str] = {str(name).lower() for name in classes}
    for name in classes:
        other = str(name).lower().replace(*_SIDES)
        if other != str(name).lower() and other in known:
            return name, other
    return ()


RULES = (check_flips,)
