"""Judge the labels of a whole split: its convention, and the classes without data."""

from functools import reduce
from math import gcd
from typing import Collection, Iterator, Mapping, Optional, Sequence

from .problems import Problem

# Fewer pictures may well be of one class.
FEWEST = 5
# Share of a split's pixels.
_FEW_PIXELS = 0.01
# Labels of neighbouring classes in a map drawn in shades of grey differ by at least this.
_GREY_STEP = 10
IGNORED = 255  # default of mmseg's losses and metrics


def absent_classes(
    place: str,
    classes: Sequence[str],
    present: Collection[int],
    pictures: int,
    effect: str,
    cause: str = '',
) -> Iterator[Problem]:
    """Report the classes of which a split has nothing, in one problem.

    Args:
        place: The list or folder of the split.
        classes: Names in the order of labels.
        present: The labels that occur.
        pictures: Number of pictures in the split.
        effect: What follows for these classes, after 'they'.
        cause: The likely cause, if one is known.
    """
    absent = [name for label, name in enumerate(classes) if label not in present]
    if not absent:
        return
    shown = ', '.join(map(str, absent[:5]))
    more = f' and {len(absent) - 5} more' if len(absent) > 5 else ''
    kind, left = 'absent-class', len(classes) - len(absent)
    said = f'{len(absent)} of {len(classes)} classes do not occur: {shown}{more}; they {effect}'
    if len(classes) > 1 and left < 2 and pictures >= FEWEST:
        kind = 'only-one-class'
        only = [name for label, name in enumerate(classes) if label in present]
        said = f'a split must have two classes or more; of its {len(classes)} classes ' + (
            f'only {only[0]} occurs' if only else 'none occurs'
        )
        cause = cause or 'add pictures of the others'
    yield Problem(kind, place, f'{said}; {cause}' if cause else said)


def guess_labels(place: str, labels: Mapping[int, int], num_classes: int) -> Optional[Problem]:
    """Return a problem if the labels of a list count from 1.

    Args:
        place: The list.
        labels: How often each label occurs.
        num_classes: Number of classes.
    """
    if not labels or (min(labels), max(labels)) != (1, num_classes):
        return None
    return Problem(
        'convention',
        place,
        f'labels must be 0 to {num_classes - 1}; they are 1 to {num_classes}, '
        'so they count from 1; subtract 1 from each',
    )


def guess_map_values(
    place: str,
    values: Mapping[int, int],
    allowed: Collection[int],
    num_classes: int,
    reduce_zero_label: bool,
) -> Optional[Problem]:
    """Return a problem if all segmentation maps of a split follow another convention.

    A reason to guess are values of no class, if they are not rare, and masks of 0
    and 255, which lack a class.

    Args:
        place: The folder of the maps.
        values: Number of pixels with each value of the files.
        allowed: The values that the files may have.
        num_classes: Number of classes.
        reduce_zero_label: Whether 0 means unlabelled.
    """
    guess = ''
    meant = sorted(value for value in values if value != IGNORED or IGNORED not in allowed)
    wrong = [value for value in meant if value not in allowed]
    # A few such pixels are a fault of single maps.
    common = sum(values[value] for value in wrong) > _FEW_PIXELS * sum(values.values())
    if meant == [0] and IGNORED in values and num_classes > 1:
        guess = '0 and 255: a mask in black and white, and 255 is ignored; write 1 for 255'
    elif common and wrong == [num_classes] and not reduce_zero_label:
        guess = (
            f'{meant[0]} to {num_classes}; set reduce_zero_label=True if 0 means '
            'unlabelled, or else name a class for 0'
        )
    elif common and reduce(gcd, meant) >= _GREY_STEP and len(meant) <= num_classes + 1:
        shown = ', '.join(map(str, meant[:5]))
        guess = f'{shown}: shades of grey; write the index of each class'
    if not guess:
        return None
    return Problem(
        'convention',
        place,
        f"the {num_classes} classes' values must be {int(reduce_zero_label)} to "
        f'{num_classes - 1 + reduce_zero_label}; the maps have {guess}',
    )
