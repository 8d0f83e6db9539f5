"""Check the label maps of token labelling."""

import os
import os.path as osp
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..token_labels import SUFFIX, TokenLabelError, label_path, read_token_labels
from .items import Item
from .problems import Problem


class LabelMaps(NamedTuple):
    """Where a pipeline's label maps lie, and what they must be; see ``LoadTokenLabels``."""

    image_root: str
    label_root: str
    num_classes: int
    grid: Optional[Sequence[int]] = None


def read_label_maps(maps: LabelMaps, items: List[Item]) -> Tuple[List[Item], List[Problem]]:
    """Give items the paths of their label maps, and list the problems of these paths."""
    owners: Dict[str, str] = {}
    found, problems = [], []
    for item in items:
        try:
            path = label_path(item.image, maps.image_root, maps.label_root)
        except TokenLabelError as error:
            problems.append(Problem('label-map-missing', item.image, str(error)))
            found.append(item)
            continue
        if owners.setdefault(path, item.image) != item.image:
            problems.append(
                Problem('label-map-shared', path, f'is of {owners[path]} and of {item.image}')
            )
        found.append(item._replace(label_map=path))
    for folder, _, names in sorted(os.walk(maps.label_root)):
        for path in sorted(osp.join(folder, name) for name in names if name.endswith(SUFFIX)):
            if path not in owners:
                problems.append(Problem('label-map-unused', path, 'has no image'))
    return found, problems


def check_label_map(maps: LabelMaps, path: str) -> List[Problem]:
    """Return the problem of a label map, if it has one."""
    try:
        read_token_labels(path, maps.num_classes, maps.grid)
    except TokenLabelError as error:
        kind = 'label-map' if osp.isfile(path) else 'label-map-missing'
        return [Problem(kind, path, str(error).replace(f'the label map {path} ', ''))]
    return []
