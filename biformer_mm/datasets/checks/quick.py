"""Count the files of a config's data sets, without opening a picture.

This takes seconds, reading all pictures takes hours. The files that annotations
and lists name must exist, and the recipes' data sets must have their published
size.
"""

import json
import os
import os.path as osp
from collections import Counter, defaultdict
from typing import Any, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple

from mmengine.registry import init_default_scope

from biformer_mm.datasets.checks.paths import SOURCES, find_missing, leaves
from biformer_mm.utils.errors import explained

from .classification import Tree, folder_rules, read_list, read_tree
from .facts import facts_of
from .folders import is_hidden, walk
from .problems import Problem
from .scanning import Found, build_lazily, compare
from .segmentation import name_rules


class Published(NamedTuple):
    """The published size of a split of a recipe's data set.

    Attributes:
        pictures: Number of pictures.
        name: Format of a picture's name, given its number from 1 on, or ''.
        objects: Number of objects in COCO's annotation file.
        folders: Number of ImageNet's classes.
        smallest: Pictures in the smallest of these classes.
    """

    pictures: int
    name: str = ''
    objects: int = 0
    folders: int = 0
    smallest: int = 0


# By data set type, then by annotation file or folder of pictures.
PUBLISHED = {
    'CocoDataset': {
        'instances_train2017.json': Published(118287, objects=860001),
        'instances_val2017.json': Published(5000, objects=36781),
    },
    'ADE20KDataset': {
        'training': Published(20210, 'ADE_train_{:08d}'),
        'validation': Published(2000, 'ADE_val_{:08d}'),
    },
    'ImageNet': {
        'train': Published(1281167, folders=1000, smallest=732),
        'val': Published(50000, folders=1000, smallest=50),
    },
}


def count(cfg: Any, splits: Sequence[str]) -> Tuple[List[Found], int]:
    """Count the files of a config's data sets.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        splits: Of 'train', 'val' and 'test'.

    Returns:
        The problems, one for each incomplete folder or list, and the number of
        pictures found.

    Raises:
        UsageError: A data set's type is unknown, its files are remote, or its
            arguments are wrong.
    """
    found, facts, gone = [], [], set()
    for part in find_missing(cfg, splits):
        source = SOURCES.get(part.dataset_type)
        detail = f'is not there; get {source}' if source else 'is not there'
        found.append(Found(part.split, Problem('missing', part.path, detail)))
        gone.add(osp.normpath(part.path))
    pictures = 0
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        for option, leaf in leaves(f'{split}_dataloader.dataset', loader.get('dataset')):
            if osp.normpath(leaf.get('data_root') or '.') in gone:
                continue
            with explained(f'{option} must be a data set that can be read', 'correct it'):
                dataset, kind = build_lazily(option, leaf)
                problems, number = _COUNTERS[kind](dataset)
                problems += _split_rules(dataset, kind, split != 'train')
                facts.append(facts_of(option, dataset))
            pictures += number
            found += [
                Found(split, problem)
                for problem in problems
                if osp.normpath(problem.file) not in gone
            ]
    found += compare(facts)
    # Wrappers may name a data set twice, and evaluators repeat its list.
    once = {}
    for split, problem in found:
        what = (split, osp.normpath(problem.file), problem.kind, problem.detail.partition(';')[0])
        once.setdefault(what, Found(split, problem))
    return list(once.values()), pictures


def _published(dataset: Any, path: str) -> Published:
    """Return the published size of a split; zeros if it is unknown."""
    for cls in type(dataset).__mro__:
        known = PUBLISHED.get(cls.__name__, {})
        name = osp.basename(osp.normpath(path or '.'))
        # Other classes mean another data set in the same layout.
        if name in known and tuple(dataset.metainfo['classes']) == tuple(cls.METAINFO['classes']):
            return known[name]
    return Published(0)


# COCO's layout


def _count_coco(dataset: Any) -> Tuple[List[Problem], int]:
    path, folder = dataset.ann_file, dataset.data_prefix['img']
    if not osp.isfile(path):
        return [Problem('missing', path, 'is not there')], 0
    try:
        with open(path) as file:
            content = json.load(file)
        names = {image['file_name'] for image in content['images']}
        objects = len(content['annotations'])
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        return [
            Problem(
                'json',
                path,
                f'cannot be read as images and annotations: {type(error).__name__}: {error}',
            )
        ], 0
    published, problems = _published(dataset, path), []
    for number, expected, what in (
        (len(names), published.pictures, 'pictures'),
        (objects, published.objects, 'objects'),
    ):
        if published.pictures and number != expected:
            problems.append(Problem('count', path, f'lists {number:,} of the {expected:,} {what}'))
    lacking, number = _compare(folder, names, 'pictures')
    return problems + lacking, number


def _compare(
    root: str, names: Iterable[str], what: str, kind: str = 'missing'
) -> Tuple[List[Problem], int]:
    """Look for named files below a folder, reading each folder once.

    Returns:
        A problem for each incomplete folder, and the number of files found.
    """
    by_folder = defaultdict(set)
    for name in names:
        folder, file = osp.split(osp.join(root, name))
        by_folder[folder].add(file)
    problems, number = [], 0
    for folder, expected in sorted(by_folder.items()):
        lacking = expected - _files(folder)
        number += len(expected) - len(lacking)
        problems += _lacks(folder, lacking, len(expected), what, kind)
    return problems, number


def _files(folder: str) -> Set[str]:
    """Return the names of the files in a folder; none if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def _lacks(
    folder: str, names: Set[str], expected: int, what: str, kind: str = 'missing'
) -> Iterator[Problem]:
    if names:
        yield Problem(
            kind,
            folder,
            f'has {expected - len(names):,} of {expected:,} '
            f'{what}; missing {len(names):,}, such as {min(names)}',
        )


# ADE20K's layout


def _count_segmentation(dataset: Any) -> Tuple[List[Problem], int]:
    folder = dataset.data_prefix.get('img_path') or ''
    maps = dataset.data_prefix.get('seg_map_path')
    published, problems = _published(dataset, folder), []
    if osp.isfile(dataset.ann_file or ''):
        with open(dataset.ann_file) as file:
            stems = {line.strip() for line in file}
        problems, number = _compare(
            folder, (stem + dataset.img_suffix for stem in stems), 'pictures'
        )
    else:
        stems = {
            name[: -len(dataset.img_suffix)]
            for name in walk(folder)
            if name.endswith(dataset.img_suffix)
        }
        number = len(stems)
        if published.pictures:
            expected = {published.name.format(i) for i in range(1, published.pictures + 1)}
            lacking = {stem + dataset.img_suffix for stem in expected - stems}
            problems += _lacks(folder, lacking, published.pictures, 'pictures')
            problems += _more(folder, stems - expected, 'pictures')
            stems = expected | stems
        elif not stems:
            problems.append(Problem('no-images', folder, 'there is no image'))
    if maps:
        problems += _compare(
            maps, (stem + dataset.seg_map_suffix for stem in stems), 'maps', 'map-missing'
        )[0]
    return problems, number


def _more(folder: str, names: Set[str], what: str) -> Iterator[Problem]:
    if names:
        yield Problem(
            'count',
            folder,
            f'has {len(names):,} {what} that are not of the data set, such as {min(names)}',
        )


# ImageNet's layout


def _count_classification(dataset: Any) -> Tuple[List[Problem], int]:
    root = dataset.img_prefix
    published = _published(dataset, root)
    if dataset.ann_file:
        if not osp.isfile(dataset.ann_file):
            return [Problem('missing', dataset.ann_file, 'is not there')], 0
        samples, problems = read_list(dataset, None)
        names = {name for name, _ in samples}
        if published.pictures and len(names) != published.pictures:
            problems.append(
                Problem(
                    'count',
                    dataset.ann_file,
                    f'lists {len(names):,} of the {published.pictures:,} pictures',
                )
            )
        lacking, number = _compare(root, names, 'pictures')
        return problems + lacking, number
    if not osp.isdir(root):
        return [Problem('missing', root, 'is not there')], 0
    tree = read_tree(dataset)
    problems = list(_compare_folders(dataset, tree, published)) if dataset.with_label else []
    if not tree.pictures and not problems:
        problems.append(Problem('no-images', root, 'there is no image'))
    return problems, len(tree.pictures)


def _compare_folders(dataset: Any, tree: Tree, published: Published) -> Iterator[Problem]:
    """Yield what differs from the published class folders, if the data set is a known one."""
    root, number = dataset.img_prefix, len(tree.folders)
    if not published.pictures or any(map(is_hidden, tree.folders)):
        return
    if number != published.folders:
        detail = f'has {number:,} of {published.folders:,} class folders'
        beside = _files(root)
        if beside:
            detail += (
                f'; {len(beside):,} files lie beside them, such as '
                f'{min(beside)}: unpack them, one folder a class'
            )
        yield Problem('count', root, detail)
    counts = Counter(name.split('/')[0] for name in tree.pictures)
    small = [
        f'{name} ({counts[name]:,})' for name in tree.folders if counts[name] < published.smallest
    ]
    if small:
        yield Problem(
            'count',
            root,
            f'has {len(small):,} classes of fewer than '
            f'{published.smallest:,} pictures, the published least: '
            f'{", ".join(small[:3])}{", ..." if len(small) > 3 else ""}',
        )
    if len(tree.pictures) != published.pictures:
        yield Problem(
            'count', root, f'has {len(tree.pictures):,} of {published.pictures:,} pictures'
        )


def _split_rules(dataset: Any, kind: str, evaluated: bool) -> Iterator[Problem]:
    """Yield what is wrong with a split as a whole, by the names of its files."""
    if kind == 'BaseSegDataset':
        yield from name_rules(dataset)
    elif kind == 'CustomDataset':
        known = _published(dataset, dataset.img_prefix).pictures
        for problem in folder_rules(dataset, evaluated):
            # The published numbers say more about classes.
            if not known or problem.kind in ('hidden-folder', 'passed-over'):
                yield problem


_COUNTERS = dict(
    CocoDataset=_count_coco, BaseSegDataset=_count_segmentation, CustomDataset=_count_classification
)
