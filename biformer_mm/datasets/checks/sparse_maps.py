"""Find that losses shrink because most pixels have no label."""

from statistics import median
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from biformer_mm.utils.config_types import bare_type_name

from .problems import Problem

_MOSTLY = 0.8


def check_sparse(place: str, model: Dict, shares: Sequence[float]) -> Iterator[Problem]:
    """Yield that cross entropies are averaged over pixels that are mostly ignored.

    mmseg's ``CrossEntropyLoss`` divides by the number of all pixels, also of those
    that it ignores, unless ``avg_non_ignore=True``.

    Args:
        place: Folder of the segmentation maps.
        model: The config of the model.
        shares: For each map that is trained on, its share of ignored pixels.
    """
    ignored = median(shares) if shares else 0
    keys = _averaging(model) if ignored > _MOSTLY else []
    if keys:
        yield Problem(
            'mostly-unlabelled',
            place,
            f'half of the maps ignore {ignored:.0%} of their pixels or more, and the loss is '
            'averaged over all pixels, so that it and its gradients are about '
            f'{1 / max(1 - ignored, 0.001):.0f} times too small; set '
            + ' '.join(f'{key}.avg_non_ignore=True' for key in keys),
        )


def _averaging(model: Dict) -> List[str]:
    """Return the keys of the cross entropies that average over all pixels."""
    heads = [
        head
        for part in ('decode_head', 'auxiliary_head')
        for head in _each(f'model.{part}', model.get(part))
    ]
    losses = [
        loss for key, head in heads for loss in _each(f'{key}.loss_decode', head.get('loss_decode'))
    ]
    return [
        key
        for key, loss in losses
        if bare_type_name(loss) == 'CrossEntropyLoss' and not loss.get('avg_non_ignore')
    ]


def _each(key: str, value: Any) -> Iterator[Tuple[str, Dict]]:
    """Yield a dict, or the dicts of a list, with their keys."""
    if isinstance(value, dict):
        yield key, value
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _each(f'{key}.{number}', part)
