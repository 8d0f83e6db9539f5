"""Check what a config says of its data sets before anything is built."""

import os
import os.path as osp
from typing import Dict, Iterator, NamedTuple, Sequence, Tuple

from biformer_mm.utils.config_types import bare_type_name
from biformer_mm.utils.errors import UsageError, explained

# Where the data sets of the recipes come from, by dataset type.
SOURCES = {
    'CocoDataset': 'COCO 2017 from https://cocodataset.org/#download',
    'ADE20KDataset': 'ADE20K from https://groups.csail.mit.edu/vision/datasets/ADE20K/',
    'ImageNet': 'ImageNet-1K from https://image-net.org/download.php',
}


class DataPath(NamedTuple):
    """A file or folder of a data set, and the config field that sets it."""

    option: str
    path: str
    split: str
    dataset_type: str


def check_data(cfg: Dict, splits: Sequence[str]) -> None:
    """Check the classes of a config's data sets, and that its files and folders exist.

    Args:
        cfg: Config of an OpenMMLab project.
        splits: The splits that the run uses, of 'train', 'val' and 'test'.

    Raises:
        UsageError: Classes are a text, see :func:`check_classes`, or paths are
            missing. The message names the paths, where to get the data set,
            and the config fields that set them.
    """
    check_classes(cfg, splits)
    missing = find_missing(cfg, splits)
    if not missing:
        return
    # dict.fromkeys drops duplicates and keeps the order.
    paths = dict.fromkeys(part.path for part in missing)
    options = dict.fromkeys(part.option for part in missing)
    sources = dict.fromkeys(
        SOURCES[part.dataset_type] for part in missing if part.dataset_type in SOURCES
    )
    get = f'get {" and ".join(sources)}, or ' if sources else ''
    raise UsageError(
        f'data not found: {", ".join(paths)} (from {os.getcwd()}); {get}'
        'point elsewhere with ' + ' '.join(f'{option}=PATH' for option in options)
    )


def check_classes(cfg: Dict, splits: Sequence[str]) -> None:
    """Refuse classes that are a text and not the path of a file.

    ``('person')`` is such a text, and would be read as the classes p, e, r, s,
    o and n. MMEngine reads the classes from a file if the text is its path.

    Args:
        cfg: Config of an OpenMMLab project.
        splits: The splits that the run uses, of 'train', 'val' and 'test'.

    Raises:
        UsageError: A data set's classes are such a text.
    """
    for option, dataset in _leaves_of(cfg, splits):
        metainfo = dataset.get('metainfo') or {}
        if not isinstance(metainfo, dict):
            raise UsageError(f'{option}.metainfo must be a dict; got {metainfo!r}')
        for key, classes in (
            (f'{option}.metainfo.classes', metainfo.get('classes')),
            (f'{option}.classes', dataset.get('classes')),
        ):
            if isinstance(classes, str) and not osp.isfile(osp.expanduser(classes)):
                raise UsageError(
                    f'{key} must be a tuple or a list of names, or the path '
                    f'of a file with one name a line; got the text '
                    f'{classes!r}; one class is written with a comma: '
                    f'({classes!r}, )'
                )


def find_missing(cfg: Dict, splits: Sequence[str]) -> Sequence[DataPath]:
    """Find the files and folders of a config's data sets that do not exist.

    Args:
        cfg: Config of an OpenMMLab project.
        splits: Of 'train', 'val' and 'test'.

    Returns:
        The missing ones. If the root of a data set is missing, only the root.

    Raises:
        UsageError: A data set is not a dict of a type and paths.
    """
    with explained(
        f'data sets must be dicts of a type and paths, and {splits} of the config are not',
        'correct their dataset',
    ):
        return [
            part
            for part in _paths(cfg, splits)
            if part.path and '://' not in part.path and not osp.exists(part.path)
        ]


def _leaves_of(cfg: Dict, splits: Sequence[str]) -> Sequence[Tuple[str, Dict]]:
    """List (config field, data set) of all splits."""
    with explained(
        f'data sets must be dicts of a type and paths, and {splits} of the config are not',
        'correct their dataset',
    ):
        return [
            leaf
            for split in splits
            if cfg.get(f'{split}_dataloader')
            for leaf in leaves(
                f'{split}_dataloader.dataset', cfg[f'{split}_dataloader'].get('dataset')
            )
        ]


def _paths(cfg: Dict, splits: Sequence[str]) -> Iterator[DataPath]:
    """Yield all paths of the data sets and of their evaluators."""
    for split in splits:
        for option, dataset in _leaves_of(cfg, [split]):
            kind = bare_type_name(dataset)
            root = dataset.get('data_root') or ''
            if root:
                yield DataPath(f'{option}.data_root', root, split, kind)
            if not root or osp.exists(root):
                for key, path in _parts(dataset, kind):
                    # Joined as the data set does: an absolute path wins.
                    yield DataPath(f'{option}.{key}', osp.join(root, path), split, kind)
        if not cfg.get(f'{split}_dataloader'):
            continue
        for option, evaluator in evaluators_of(cfg, split):
            if evaluator.get('ann_file'):
                yield DataPath(f'{option}.ann_file', evaluator['ann_file'], split, '')


def evaluators_of(cfg: Dict, split: str) -> Iterator[Tuple[str, Dict]]:
    """Yield (config field, metric) of a split; those that are built already are left out."""
    option, metrics = f'{split}_evaluator', cfg.get(f'{split}_evaluator') or {}
    if isinstance(metrics, dict) and 'metrics' in metrics:  # of an Evaluator
        option, metrics = f'{option}.metrics', metrics['metrics']
    named = [(option, metrics)]
    if isinstance(metrics, (list, tuple)):
        named = [(f'{option}.{i}', metric) for i, metric in enumerate(metrics)]
    return ((option, metric) for option, metric in named if isinstance(metric, dict) and metric)


def leaves(option: str, dataset: Dict) -> Iterator[Tuple[str, Dict]]:
    """Yield (config field, data set) of the data sets inside wrappers (repeat, concat, ...).

    Raises:
        UsageError: A data set is not a dict.
    """
    if not isinstance(dataset, dict):
        raise UsageError(f'{option} must be a dict of a type and paths; got {dataset!r}')
    if 'dataset' in dataset:
        yield from leaves(f'{option}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from leaves(f'{option}.datasets.{i}', inner)
    else:
        yield option, dataset


def _parts(dataset: Dict, kind: str) -> Iterator[Tuple[str, str]]:
    """Yield (key, path below data_root) of the annotations and folders."""
    if dataset.get('ann_file'):
        yield 'ann_file', dataset['ann_file']
    prefix = dataset.get('data_prefix') or {}
    if not prefix and kind == 'ImageNet':
        prefix = dataset.get('split') or {}  # its folder
    if isinstance(prefix, str):
        yield 'data_prefix', prefix
    else:
        for key, path in dict(prefix).items():
            yield f'data_prefix.{key}', path or ''
