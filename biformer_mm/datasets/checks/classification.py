"""Check an mmpretrain data set."""

import os
import os.path as osp
from collections import Counter
from typing import Any, List, Optional, Tuple

from .items import Item
from .problems import Problem


def read_classification(
    dataset: Any, num_classes: Optional[int]
) -> Tuple[List[Item], List[Problem]]:
    """List the items of a ``CustomDataset`` and the problems of its list or folders.

    Args:
        dataset: The data set, built lazily; ``ImageNet`` is one, too.
        num_classes: Number of classes of the classifier; None if unknown.
    """
    classes = dataset.CLASSES
    limit = min((n for n in (num_classes, classes and len(classes)) if n), default=None)
    if dataset.ann_file:
        samples, problems = read_list(dataset, limit)
        if dataset.with_label:
            found = Counter(label for _, label in samples)
            problems += [
                Problem('empty-class', dataset.ann_file, f'no image has label {label}')
                for label in range(limit or 0)
                if not found[label]
            ]
    elif dataset.with_label:
        samples, problems = _read_folders(dataset, limit)
    else:
        samples = [(path, None) for path in _pictures(dataset, '')]
        problems = []
    return [Item(osp.join(dataset.img_prefix, name)) for name, _ in samples], problems


def read_list(dataset: Any, limit: Optional[int]) -> Tuple[List, List]:
    """Read a list of pictures and return (path, label) of each, and the problems."""
    samples, problems = [], []
    with open(dataset.ann_file) as file:
        for number, line in enumerate(file.read().splitlines(), 1):
            # Split as the data set does.
            name, _, label = line.strip().rpartition(' ')
            if not dataset.with_label:
                samples.append((line, None))
            elif not name or not label.isdecimal():
                problems.append(
                    Problem(
                        'list-line', dataset.ann_file, f'line {number} is not PATH LABEL: {line!r}'
                    )
                )
            else:
                samples.append((name, int(label)))
                if limit is not None and int(label) >= limit:
                    problems.append(
                        Problem(
                            'label',
                            osp.join(dataset.img_prefix, name),
                            f'label {label}, but there are {limit} classes '
                            f'(line {number} of {dataset.ann_file})',
                        )
                    )
    return samples, problems


def _read_folders(dataset: Any, limit: Optional[int]) -> Tuple[List, List]:
    root = dataset.img_prefix
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    samples, problems = [], []
    classes = dataset.CLASSES
    if classes and len(classes) != len(folders):
        problems.append(
            Problem('label', root, f'{len(folders)} folders, but {len(classes)} classes')
        )
    for label, folder in enumerate(folders):
        found = _pictures(dataset, folder)
        samples += [(name, label) for name in found]
        path = osp.join(root, folder)
        if not found:
            problems.append(Problem('empty-class', path, 'no image in this folder'))
        if limit is not None and label >= limit:
            problems.append(Problem('label', path, f'label {label}, but there are {limit} classes'))
    return samples, problems


def _pictures(dataset: Any, folder: str) -> List[str]:
    """List the images below a folder, relative to the data set's root.

    Hidden files and other extensions are left out.
    """
    root = dataset.img_prefix
    found = []
    for place, _, names in os.walk(osp.join(root, folder), followlinks=True):
        found += [
            osp.relpath(osp.join(place, name), root)
            for name in names
            if dataset.is_valid_file(name) and not name.startswith('.')
        ]
    return sorted(found)
