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
    """A file or folder of a data set, and the option that sets it."""

    option: str
    path: str
    split: str
    dataset_type: str


def check_data(cfg: Dict, splits: Sequence[str]) -> None:
    """Check the classes of a config's data sets, and that the files and
    folders that it names exist.

    Args:
        cfg: Config of an OpenMMLab project.
        splits: Those that the run uses, of 'train', 'val' and 'test'.

    Raises:
        UsageError: Classes are a text, see :func:`check_classes`, or paths are
            missing. The text names them, where to get the data set, and the
            options that point elsewhere.
    """
    check_classes(cfg, splits)
    missing = find_missing(cfg, splits)
    if not missing:
        return
    # dict.fromkeys keeps the order and drops what comes twice.
    paths = dict.fromkeys(part.path for part in missing)
    options = dict.fromkeys(part.option for part in missing)
    sources = dict.fromkeys(
        SOURCES[part.dataset_type] for part in missing if part.dataset_type in SOURCES
    )
    get = f'get {" and ".join(sources)}, or ' if sources else ''
    raise UsageError(
        f'data not found: {", ".join(paths)} (from {os.getcwd()}); {get}'
        'point elsewhere with --cfg-options ' + ' '.join(f'{option}=PATH' for option in options)
    )


def check_classes(cfg: Dict, splits: Sequence[str]) -> None:
    """Refuse classes that are a text: ``('person')`` is one, which would be
    taken for the classes p, e, r, s, o and n.

    MMEngine reads the classes from a file where the text is its path.

    Args:
        cfg: Config of an OpenMMLab project.
        splits: Those that the run uses, of 'train', 'val' and 'test'.

    Raises:
        UsageError: The classes of a data set are the text of no file's path.
    """
    for option, dataset in _leaves_of(cfg, splits):
        for key, classes in (
            (f'{option}.metainfo.classes', (dataset.get('metainfo') or {}).get('classes')),
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
        The missing ones; of a data set without its root, the root only.

    Raises:
        UsageError: A data set is no dict of a type and paths.
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
    """List (option, data set) of all splits."""
    with explained(
        f'data sets must be dicts of a type and paths, and {splits} of the config are not',
        'correct their dataset',
    ):
        return [
            leaf
            for split in splits
            if cfg.get(f'{split}_dataloader')
            for leaf in leaves(f'{split}_dataloader.dataset', cfg[f'{split}_dataloader']['dataset'])
        ]


def _paths(cfg: Dict, splits: Sequence[str]) -> Iterator[DataPath]:
    """Yield all paths of the data sets and their evaluators."""
    for split in splits:
        for option, dataset in _leaves_of(cfg, [split]):
            kind = bare_type_name(dict(type=dataset['type']))
            root = dataset.get('data_root') or ''
            if root:
                yield DataPath(f'{option}.data_root', root, split, kind)
            if not root or osp.exists(root):
                for key, path in _parts(dataset, kind):
                    # Joined as the dataset does it: absolute parts win.
                    yield DataPath(f'{option}.{key}', osp.join(root, path), split, kind)
        if not cfg.get(f'{split}_dataloader'):
            continue
        evaluators = cfg.get(f'{split}_evaluator') or {}
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        for evaluator in evaluators:
            if evaluator.get('ann_file'):
                yield DataPath(f'{split}_evaluator.ann_file', evaluator['ann_file'], split, '')


def leaves(option: str, dataset: Dict) -> Iterator[Tuple[str, Dict]]:
    """Look inside dataset wrappers (repeat, concat, ...)."""
    if 'dataset' in dataset:
        yield from leaves(f'{option}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from leaves(f'{option}.datasets.{i}', inner)
    else:
        yield option, dataset


def _parts(dataset: Dict, kind: str) -> Iterator[Tuple[str, str]]:
    """Yield (key, path below data_root) of annotations and folders."""
    if dataset.get('ann_file'):
        yield 'ann_file', dataset['ann_file']
    prefix = dataset.get('data_prefix') or {}
    if not prefix and kind == 'ImageNet':
        prefix = dataset.get('split') or {}  # which is its folder
    if isinstance(prefix, str):
        yield 'data_prefix', prefix
    else:
        for key, path in prefix.items():
            yield f'data_prefix.{key}', path or ''
