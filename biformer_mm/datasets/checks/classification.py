"""Check an mmpretrain data set."""

import os
import os.path as osp
from collections import Counter
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .folders import hidden_folders, hidden_part, is_hidden, is_picture, passed_over, walk
from .items import Item
from .label_conventions import FEWEST, absent_classes, guess_labels
from .problems import Problem

_EFFECTS = ('are never learnt', 'count in no figure')


class Tree(NamedTuple):
    """What lies below the root of a data set, relative to it.

    Attributes:
        folders: The class folders, in the order of labels; () without labels.
        pictures: Those that the data set reads.
        skipped: Other pictures.
    """

    folders: Sequence[str]
    pictures: List[str]
    skipped: List[str]


def read_classification(
    dataset: Any, num_classes: Optional[int], evaluated: bool
) -> Tuple[List[Item], List[Problem]]:
    """List the items of a ``CustomDataset`` and the problems of its list or folders.

    Args:
        dataset: The data set, built lazily; ``ImageNet`` is one, too.
        num_classes: Number of outputs of the classifier; None if unknown.
        evaluated: Whether it is of a validation or test.
    """
    problems = list(folder_rules(dataset, evaluated, num_classes))
    classes = dataset.CLASSES
    limit = min((n for n in (num_classes, classes and len(classes)) if n), default=None)
    if dataset.ann_file:
        samples, wrong = read_list(dataset, limit)
        names, problems = [name for name, _ in samples], wrong + problems
    else:
        tree = read_tree(dataset)
        names = [name for name in tree.pictures if not hidden_part(name)]
    return [Item(osp.join(dataset.img_prefix, name)) for name in names], problems


def folder_rules(
    dataset: Any, evaluated: bool, num_classes: Optional[int] = None
) -> Iterator[Problem]:
    """Yield what is wrong with the list or the folders of a whole split.

    No picture is opened.

    Args:
        dataset: A ``CustomDataset`` on this machine, built lazily or not.
        evaluated: Whether it is of a validation or test.
        num_classes: Number of outputs of the classifier; None if unknown, or if there is none.
    """
    if '://' in f'{dataset.ann_file} {dataset.img_prefix}':
        return
    if not dataset.ann_file:
        yield from _tree_rules(dataset, evaluated, num_classes)
    elif dataset.with_label and osp.isfile(dataset.ann_file):
        names = dataset.CLASSES or list(map(str, range(num_classes or 0)))
        yield from _list_rules(dataset.ann_file, names, evaluated)


def _list_rules(path: str, classes: Sequence[str], evaluated: bool) -> Iterator[Problem]:
    with open(path) as file:
        last = Counter(line.strip().rpartition(' ')[2] for line in file)
    labels = {int(label): count for label, count in last.items() if label.isdecimal()}
    if not labels or not classes:
        return
    wrong = guess_labels(path, labels, len(classes))
    if wrong:
        yield wrong
    else:
        yield from absent_classes(path, classes, labels, sum(labels.values()), _EFFECTS[evaluated])


def _tree_rules(dataset: Any, evaluated: bool, num_classes: Optional[int]) -> Iterator[Problem]:
    root = dataset.img_prefix
    tree = read_tree(dataset)
    hidden = [folder for folder in tree.folders if is_hidden(folder)]
    for folder in hidden:
        yield Problem(
            'hidden-folder',
            osp.join(root, folder),
            'a hidden folder holds no class, but it would be numbered as one, and shift the '
            'labels of the folders after it; delete it',
        )
    if not hidden:
        yield from hidden_folders(root, tree.pictures)
        yield from passed_over(
            root, tree.skipped, tree.pictures, ' or '.join(sorted(dataset.extensions))
        )
        yield from _class_rules(dataset, tree, evaluated, num_classes)


def _class_rules(
    dataset: Any, tree: Tree, evaluated: bool, num_classes: Optional[int]
) -> Iterator[Problem]:
    root, folders, pictures = dataset.img_prefix, list(tree.folders), len(tree.pictures)
    classes = list(dataset.CLASSES or folders)
    if num_classes and len(folders) > num_classes:
        detail = f'{len(folders)} class folders, but the model has {num_classes} outputs'
        yield Problem('label', root, f'{detail}; set model.head.num_classes')
    differ = _unlike(folders, classes) if folders else ''
    if differ:
        yield Problem('folder-classes', root, differ)
    counts = Counter(name.split('/')[0] for name in tree.pictures)
    if num_classes and len(folders) == 1 and pictures >= FEWEST:
        yield Problem(
            'only-one-class',
            root,
            f'each class must have a folder; all {pictures} pictures are in {folders[0]}',
        )
    elif not differ:
        present = [label for label, folder in enumerate(folders) if counts[folder]]
        yield from absent_classes(root, folders, present, pictures, _EFFECTS[evaluated])


def _unlike(folders: Sequence[str], classes: Sequence[str]) -> str:
    """Return how class folders differ from a config's classes, '' if they do not.

    Classes may have other names than their folders, but a name of both must have
    one number.
    """
    if len(folders) != len(classes):
        said = f'{len(folders)} folders, but {len(classes)} classes; each class must have one'
        extra = sorted(set(folders) - set(classes))
        if len(extra) == len(folders):  # the classes have names of their own
            return said
        absent = sorted(set(classes) - set(folders))
        return f'{said}; no class: {", ".join(extra[:5])}; no folder: {", ".join(absent[:5])}'
    place = {folder: number for number, folder in enumerate(folders)}
    moved = [
        f'{name} is number {number}, its folder {place[name]}'
        for number, name in enumerate(classes)
        if place.get(name, number) != number
    ]
    if not moved or 2 * len(set(folders) & set(classes)) < len(folders):
        return ''
    return (
        'metainfo.classes must list the class folders in alphabetical order; '
        f'{", ".join(moved[:3])}{", ..." if len(moved) > 3 else ""}; reorder the classes'
    )


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


def read_tree(dataset: Any) -> Tree:
    """List the class folders and pictures of a ``CustomDataset`` without a list."""
    root, folders = dataset.img_prefix, ()
    if dataset.with_label and osp.isdir(root):
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    pictures, skipped = [], []
    for name in walk(root):
        if dataset.with_label and '/' not in name:
            continue  # beside the class folders
        if dataset.is_valid_file(name):
            pictures.append(name)
        elif is_picture(name):
            skipped.append(name)
    return Tree(folders, sorted(pictures), skipped)
