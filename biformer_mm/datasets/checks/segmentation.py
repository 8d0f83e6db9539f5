"""Check an mmseg data set."""

import os.path as osp
import random
import time
from collections import Counter
from typing import Any, Collection, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Tuple

import numpy as np

from .folders import hidden_folders, hidden_part, is_picture, lost_pictures, passed_over, walk
from .items import Item, count_values, is_jpeg, lossy
from .label_conventions import FEWEST, IGNORED, absent_classes, guess_map_values
from .problems import Problem

# Maps and seconds to spend on looking for two classes before a run.
_MOST_MAPS, _MOST_SECONDS = 200, 20
# Ignored pixels explain that a class is absent if their share is larger.
_MANY_IGNORED = 0.01


def read_segmentation(dataset: Any) -> Tuple[List[Item], List[Problem]]:
    """List the items of a ``BaseSegDataset``, and the problems of its folders."""
    items = [
        Item(entry['img_path'], None, entry.get('seg_map_path'))
        for entry in dataset.load_data_list()
    ]
    if _has_list(dataset):  # it may leave maps out on purpose
        return items, []
    root = dataset.data_prefix['img_path']
    items = [item for item in items if not hidden_part(osp.relpath(item.image, root))]
    pictures, skipped = _names(dataset)
    used = {osp.normpath(item.seg_map) for item in items if item.seg_map}
    maps = dataset.data_prefix.get('seg_map_path') or ''
    # What `passed-over` says is not said once more.
    used.update(
        osp.normpath(osp.join(maps, _stem(dataset, name) + dataset.seg_map_suffix))
        for name in lost_pictures(skipped, pictures)
    )
    problems = list(name_rules(dataset))
    for name in sorted(walk(maps)) if maps else ():
        path = osp.normpath(osp.join(maps, name))
        if name.endswith(dataset.seg_map_suffix) and path not in used and not hidden_part(name):
            problems.append(Problem('map-unused', path, 'there is no image for this map'))
    return items, problems


def map_rules(dataset: Any, model: Dict) -> Iterator[Problem]:
    """Yield what is wrong with the folders and maps of a whole split.

    Maps are read in a random order until two classes are found: a healthy split
    needs one or two.

    Args:
        dataset: A ``BaseSegDataset`` on this machine, built with its pipeline.
        model: The config of the model.
    """
    yield from name_rules(dataset)
    steps = [s for s in dataset.pipeline.transforms if type(s).__name__ == 'LoadAnnotations']
    if not steps or not dataset.metainfo.get('classes'):
        return
    order = list(range(len(dataset)))
    random.Random(0).shuffle(order)
    ends = time.monotonic() + _MOST_SECONDS
    ignored, labels, read = ignored_labels(model), Counter(), 0
    for index in order[:_MOST_MAPS]:
        sample = dataset.get_data_info(index)
        if is_jpeg(sample.get('seg_map_path') or ''):
            yield lossy(sample['seg_map_path'])
            return
        try:
            found = steps[0](sample)['gt_seg_map']
        except Exception:  # of many kinds; named when the map is loaded for training
            continue
        labels.update(count_values(found))
        read += 1
        if len(_present(dataset, ignored, labels)) > 1 or time.monotonic() > ends:
            break
    if read and len(_present(dataset, ignored, labels)) < 2:
        for problem in _absent(dataset, ignored, labels, len(order)):
            if read < len(order):  # too few to be sure
                detail = f'in {read} of {len(order)} maps, {problem.detail}'
                problem = problem._replace(kind='absent-class', detail=detail)
            yield problem


def value_rules(
    dataset: Any, ignored: FrozenSet[int], values: Mapping[int, int], maps: int
) -> Iterator[Problem]:
    """Yield what is wrong with the maps of a whole split.

    Args:
        dataset: A ``BaseSegDataset``.
        ignored: Labels that the losses ignore, after ``trained_labels``.
        values: Number of pixels with each value of the files.
        maps: Number of maps.
    """
    if not values:
        return
    allowed, _ = allowed_labels(dataset, ignored)
    guess = guess_map_values(
        _place(dataset),
        values,
        allowed,
        len(dataset.label_map or dataset.metainfo['classes']),
        dataset.reduce_zero_label,
    )
    if guess and maps >= FEWEST:
        yield guess
        return
    trained, labels = trained_labels(dataset), Counter()
    for value, pixels in values.items():
        if value < len(trained):
            labels[int(trained[value])] += pixels
    yield from _absent(dataset, ignored, labels, maps)


def _absent(
    dataset: Any, ignored: FrozenSet[int], labels: Mapping[int, int], maps: int
) -> Iterator[Problem]:
    cause = ''
    if sum(labels[label] for label in ignored) > _MANY_IGNORED * sum(labels.values()):
        cause = '255 is ignored: is it one of them?'
        if dataset.reduce_zero_label:
            cause = 'reduce_zero_label=True leaves 0 unlabelled: is it one of them?'
    yield from absent_classes(
        _place(dataset),
        dataset.metainfo['classes'],
        _present(dataset, ignored, labels),
        maps,
        'are never learnt from or scored here',
        cause,
    )


def _present(dataset: Any, ignored: FrozenSet[int], labels: Iterable[int]) -> Collection[int]:
    """Return the labels of classes among those found."""
    return [x for x in labels if x < len(dataset.metainfo['classes']) and x not in ignored]


def _place(dataset: Any) -> str:
    return dataset.data_prefix.get('seg_map_path') or dataset.ann_file


def _has_list(dataset: Any) -> bool:
    return bool(dataset.ann_file) and not osp.isdir(dataset.ann_file)


def name_rules(dataset: Any) -> Iterator[Problem]:
    """Yield what is wrong with the names of folders and pictures, without opening any."""
    root = dataset.data_prefix.get('img_path') or ''
    if _has_list(dataset) or '://' in root:
        return
    pictures, skipped = _names(dataset)
    yield from hidden_folders(root, pictures)
    yield from passed_over(root, skipped, pictures, dataset.img_suffix)


def _names(dataset: Any) -> Tuple[List[str], List[str]]:
    """Return the pictures that a data set reads from its folder, and others like them."""
    root, maps = (dataset.data_prefix.get(key) or '' for key in ('img_path', 'seg_map_path'))
    kind = _kind(dataset)  # such as _rgb; other kinds are not wanted
    pictures, skipped = [], []
    for name in walk(root):
        if name.endswith(dataset.img_suffix):
            pictures.append(name)
        elif (
            is_picture(name)
            and osp.splitext(name)[0].endswith(kind)
            and not (name.endswith(dataset.seg_map_suffix) and _is_below(maps, root, name))
        ):
            skipped.append(name)
    return pictures, skipped


def _stem(dataset: Any, name: str) -> str:
    """Return the name of a passed-over picture without its suffix."""
    stem = osp.splitext(name)[0]
    return stem[: len(stem) - len(_kind(dataset))]


def _kind(dataset: Any) -> str:
    """Return the suffix of pictures without the extension."""
    return dataset.img_suffix.rpartition('.')[0]


def _is_below(folder: str, root: str, name: str) -> bool:
    path = osp.normpath(osp.join(root, name))
    return bool(folder) and osp.commonpath([path, osp.normpath(folder)]) == osp.normpath(folder)


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


def ignored_labels(model: Dict, evaluators: Iterable[Dict] = ()) -> FrozenSet[int]:
    """Return the labels that all heads and metrics ignore.

    What only some of them ignore is learnt or scored by the others.

    Args:
        model: The config of the model.
        evaluators: The configs of the metrics that the data set is evaluated with.
    """
    parts = list(evaluators)
    for part in ('decode_head', 'auxiliary_head'):
        heads = model.get(part) or []
        parts += heads if isinstance(heads, (list, tuple)) else [heads]
    indices = [part.get('ignore_index', IGNORED) for part in parts if isinstance(part, dict)]
    indices = indices or [IGNORED]
    same = indices[0] is not None and indices.count(indices[0]) == len(indices)
    return frozenset(indices[:1] if same else ())
