"""Check an mmseg data set."""

import os
import os.path as osp
from typing import Any, Dict, FrozenSet, List, Tuple

import numpy as np

from .items import Item
from .problems import Problem

IGNORE_INDEX = 255  # default of mmseg's losses


def read_segmentation(dataset: Any) -> Tuple[List[Item], List[Problem]]:
    """List the items of a ``BaseSegDataset``, and the maps that have no image."""
    entries = dataset.load_data_list()
    items = [Item(entry['img_path'], None, entry.get('seg_map_path')) for entry in entries]
    problems = []
    if not dataset.ann_file:  # a list may leave maps out on purpose
        used = {osp.normpath(item.seg_map) for item in items if item.seg_map}
        for path in _files(dataset.data_prefix.get('seg_map_path')):
            if path.endswith(dataset.seg_map_suffix) and path not in used:
                problems.append(Problem('map-unused', path, 'there is no image for this map'))
    return items, problems


def _files(folder: str) -> List[str]:
    return sorted(
        osp.normpath(osp.join(root, name))
        for root, _, names in os.walk(folder or os.devnull)
        for name in names
    )


def allowed_labels(dataset: Any, ignored: FrozenSet[int]) -> Tuple[FrozenSet[int], FrozenSet[int]]:
    """Return the values that a map's file may hold, and those of no class.

    Args:
        dataset: A ``BaseSegDataset``.
        ignored: Labels that the losses ignore, after ``trained_labels``.
    """
    labels = trained_labels(dataset)
    classes = len(dataset.metainfo['classes'])
    unlabelled = np.isin(labels, list(ignored))
    allowed = unlabelled | (labels < classes)
    return (frozenset(allowed.nonzero()[0].tolist()), frozenset(unlabelled.nonzero()[0].tolist()))


def trained_labels(dataset: Any) -> np.ndarray:
    """Return the label that mmseg trains on for each value of a file, (256,)."""
    labels = np.arange(256)
    if dataset.reduce_zero_label:
        # 0 and 255 become 255, all others one less.
        labels = np.where(np.isin(labels, (0, 255)), 255, labels - 1)
    if dataset.label_map:
        labels = np.array([dataset.label_map.get(x, x) for x in labels])
    return labels


def ignored_labels(dataset: Any, model: Dict) -> FrozenSet[int]:
    """Return the labels that the losses of any part of the config ignore."""
    found = {IGNORE_INDEX, dataset.ignore_index}
    for part in ('decode_head', 'auxiliary_head'):
        heads = model.get(part) or []
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if isinstance(head, dict):
                found.add(head.get('ignore_index', IGNORE_INDEX))
    return frozenset(found)
