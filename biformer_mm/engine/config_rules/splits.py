"""Find data or sizes of the evaluation that do not go with those of the training."""

import os.path as osp
from typing import Any, Dict, Iterator, Sequence, Tuple

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.datasets.checks.resizing import enlargement
from biformer_mm.utils.config_types import bare_type_name

from .parts import data_sets

# Fields of a data set that do not say which images it has.
_ALIKE = ('pipeline', 'filter_cfg', 'indices', 'metainfo', 'classes', 'backend_args')
_ALIKE += ('lazy_init', 'serialize_data', 'max_refetch', '_scope_')
# Images of this shape stand for all, as the config does not give sizes.
_IMAGE = (4000, 3000)
# Half and double would be found; the usual differences would not.
_OTHER = 1.6


def check_same_data(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Warn if an evaluation reads the data that are trained on."""
    train = [_source(dataset) for _, dataset in data_sets(cfg, ['train'])]
    if 'train' not in splits or any(_picks(cfg, split) for split in ('train', *splits)):
        return
    for option, dataset in data_sets(cfg, [split for split in splits if split != 'train']):
        source = _source(dataset)
        if source[1] and source in train:
            yield Problem(
                'same-data',
                option,
                'reads the images that are trained on, so its figures say nothing of other '
                f'images; set {option}.ann_file or data_prefix to those of another split',
            )


def _source(dataset: Dict) -> Tuple[Dict, Any]:
    """Return what says which images a data set has; the second part is empty if unknown."""
    fields = {k: v for k, v in dataset.items() if k not in _ALIKE}
    root = fields.pop('data_root', None) or ''
    place: Any = fields.pop('ann_file', None)
    if place:
        place = osp.normpath(osp.join(root, place))
        fields.pop('test_mode', None)  # which chooses the file for some without one, as MNIST
    else:
        prefix = fields.get('data_prefix') or ''
        prefix = prefix if isinstance(prefix, dict) else dict(img_path=prefix)
        place = {key: osp.join(root, path) for key, path in prefix.items() if path}
        fields.pop('data_prefix', None)
    fields['type'] = bare_type_name(dataset)
    return fields, place


def _picks(cfg: Dict, split: str) -> bool:
    """Return whether a split takes chosen images of its data sets, such as a fold."""
    loader = cfg.get(f'{split}_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    chosen = (inner.get('indices') for _, inner in data_sets(cfg, [split]))
    return bare_type_name(dataset) == 'KFoldDataset' or any(
        isinstance(indices, (list, tuple)) for indices in chosen
    )


def check_scales(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Warn if an evaluation resizes to other sizes than the training."""
    trained = list(_enlargements(cfg, ['train']))
    if 'train' not in splits or not trained or None in dict(trained).values():
        return
    least = min(low for _, (low, _) in trained)
    most = max(high for _, (_, high) in trained)
    for key, found in _enlargements(cfg, [split for split in splits if split != 'train']):
        if found and not (found[1] >= least / _OTHER and found[0] <= most * _OTHER):
            times = found[0] / most if found[0] > most else found[1] / least
            yield Problem(
                'other-scale',
                key,
                f'objects should have the size that they are trained at, and are resized to '
                f'{times:.2g} times that of {trained[0][0]}; set the scale of one of the two',
            )


def _enlargements(cfg: Dict, splits: Sequence[str]) -> Iterator[Tuple[str, Any]]:
    """Yield (key of a pipeline, by how much it enlarges a typical image, if that is known)."""
    for split in splits:
        wrapper = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        mixes = isinstance(wrapper, dict) and 'dataset' in wrapper and 'pipeline' in wrapper
        for option, dataset in data_sets(cfg, [split]):
            pipeline = dataset.get('pipeline')
            yield f'{option}.pipeline', None if mixes else enlargement(pipeline, _IMAGE)


RULES = (check_same_data, check_scales)
