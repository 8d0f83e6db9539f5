"""Tell what is missing of a config's data sets before anything is built."""
import os
import os.path as osp
from typing import Dict, Iterator, Sequence, Tuple

from biformer_mm.errors import UsageError, explained

# Where the data sets of the recipes come from, by dataset type.
_SOURCES = {
    'CocoDataset':
    'COCO 2017 from https://cocodataset.org/#download',
    'ADE20KDataset':
    'ADE20K from https://groups.csail.mit.edu/vision/datasets/ADE20K/',
    'ImageNet':
    'ImageNet-1K from https://image-net.org/download.php',
}


def check_data(cfg: Dict, splits: Sequence[str]) -> None:
    """Check that the files and folders that a config names exist.

    Args:
        cfg: Config of an OpenMMLab project.
        splits: Those that the run uses, of 'train', 'val' and 'test'.

    Raises:
        UsageError: Paths are missing. The text names them, where to get the
            data set, and the options that point elsewhere.
    """
    missing, options, sources = [], [], []
    with explained(
            f'data sets must be dicts of a type and paths, and {splits} of '
            'the config are not', 'mend their dataset'):
        paths = list(_paths(cfg, splits))
    for option, path, dataset_type in paths:
        if not path or '://' in path or osp.exists(path):
            continue
        if path not in missing:
            missing.append(path)
        if option not in options:
            options.append(option)
        source = _SOURCES.get(dataset_type)
        if source and source not in sources:
            sources.append(source)
    if not missing:
        return
    get = f'get {" and ".join(sources)}, or ' if sources else ''
    raise UsageError(
        f'data not found: {", ".join(missing)} (from {os.getcwd()}); {get}'
        'point elsewhere with --cfg-options ' +
        ' '.join(f'{option}=PATH' for option in options))


def _paths(cfg: Dict,
           splits: Sequence[str]) -> Iterator[Tuple[str, str, str]]:
    """Yield (option that sets it, path, dataset type) for all data."""
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        for option, dataset in leaves(f'{split}_dataloader.dataset',
                                       loader['dataset']):
            kind = dataset['type'].rpartition('.')[2]
            root = dataset.get('data_root') or ''
            if root:
                yield f'{option}.data_root', root, kind
            if not root or osp.exists(root):
                for key, path in _parts(dataset):
                    # Joined as the dataset does it: absolute parts win.
                    yield f'{option}.{key}', osp.join(root, path), kind
        evaluators = cfg.get(f'{split}_evaluator') or {}
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        for evaluator in evaluators:
            if evaluator.get('ann_file'):
                yield f'{split}_evaluator.ann_file', evaluator['ann_file'], ''


def leaves(option: str, dataset: Dict) -> Iterator[Tuple[str, Dict]]:
    """Look inside dataset wrappers (repeat, concat, ...)."""
    if 'dataset' in dataset:
        yield from leaves(f'{option}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from leaves(f'{option}.datasets.{i}', inner)
    else:
        yield option, dataset


def _parts(dataset: Dict) -> Iterator[Tuple[str, str]]:
    """Yield (key, path below data_root) of annotations and folders."""
    if dataset.get('ann_file'):
        yield 'ann_file', dataset['ann_file']
    prefix = dataset.get('data_prefix') or {}
    if isinstance(prefix, str):
        yield 'data_prefix', prefix
    else:
        for key, path in prefix.items():
            yield f'data_prefix.{key}', path or ''
