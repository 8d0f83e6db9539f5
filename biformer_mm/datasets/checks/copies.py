"""Find pictures that are in two splits."""

from typing import Iterator, Mapping

from .problems import Problem

# Share of the pictures from which on figures mean little, and the fewest that count.
_MANY, _FEWEST = 0.1, 5


def check_copies(train: Mapping[bytes, str], other: Mapping[bytes, str]) -> Iterator[Problem]:
    """Yield that pictures of an evaluation are trained on, too, whatever their names.

    Args:
        train: Paths of the training's pictures, by a digest of their content.
        other: Those of another split.

    Yields:
        ``in-two-splits`` (warning), or ``many-in-two-splits`` (error) from 10 % on.
    """
    same = [digest for digest in other if digest in train]
    if same:
        many = len(same) >= max(_MANY * len(other), _FEWEST)
        yield Problem(
            'many-in-two-splits' if many else 'in-two-splits',
            other[same[0]],
            f'pictures must be in one split only, and {len(same)} of {len(other)} are in the '
            f'training, too, such as this one, which is {train[same[0]]}: figures are too good; '
            'remove them from one of the two',
        )
