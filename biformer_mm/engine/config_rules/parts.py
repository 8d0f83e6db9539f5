"""Find the parts of a config that must agree: data sets, heads, evaluators, pipeline steps."""

import inspect
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, Registry

from biformer_mm.datasets.checks.paths import evaluators_of, leaves
from biformer_mm.utils.config_types import bare_type_name

# Heads that predict the classes of the data. Others, such as rpn_head, have their own.
_HEADS = ('head', 'bbox_head', 'mask_head', 'query_head', 'decode_head', 'auxiliary_head')

Part = Tuple[str, Dict]  # (key as after --cfg-options, config)


def data_sets(cfg: Dict, splits: Sequence[str]) -> Iterator[Part]:
    """Yield the data sets of splits, without their wrappers."""
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        dataset = loader.get('dataset') if isinstance(loader, dict) else None
        if isinstance(dataset, dict):
            yield from leaves(f'{split}_dataloader.dataset', dataset)


def evaluators(cfg: Dict, split: str) -> Iterator[Part]:
    """Yield the metrics of 'val' or 'test', if it has data."""
    if cfg.get(f'{split}_dataloader'):
        yield from evaluators_of(cfg, split)


def heads(cfg: Dict) -> Iterator[Part]:
    """Yield the heads that predict the classes of the data.

    Auxiliary heads are left out unless they are FCNHeads, as others may have labels of their own,
    such as the edges of STDCHead.
    """
    model = cfg.get('model')
    for key, part in (*each('model', model), *each('model.roi_head', _get(model, 'roi_head'))):
        for name in _HEADS:
            for option, head in each(f'{key}.{name}', part.get(name)):
                if name != 'auxiliary_head' or bare_type_name(head) == 'FCNHead':
                    yield option, head


def preprocessor(cfg: Dict) -> Part:
    """Return the data preprocessor that the runner uses; an empty dict if there is none."""
    own = _get(cfg.get('model'), 'data_preprocessor')
    if isinstance(own, dict):
        return 'model.data_preprocessor', own
    return 'data_preprocessor', cfg.get('data_preprocessor') or {}


def steps(key: str, pipeline: Any) -> Iterator[Part]:
    """Yield the steps of a pipeline, also those inside other steps."""
    for option, step in each(key, pipeline):
        if 'type' in step:
            yield option, step
        for name, inner in step.items():
            if isinstance(inner, (dict, list, tuple)):
                yield from steps(f'{option}.{name}', inner)


def each(key: str, value: Any) -> Iterator[Part]:
    """Yield a dict, or the dicts of a list and of the lists in it, with their keys."""
    if isinstance(value, dict):
        yield key, value
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from each(f'{key}.{i}', inner)


def class_of(cfg: Dict, part: Dict, registry: Registry) -> Optional[type]:
    """Return the class that a part of a config names; None if it cannot be found."""
    kind, scope = part.get('type'), cfg.get('default_scope')
    if isinstance(kind, str):
        try:
            kind = registry.get(f'{scope}.{kind}' if scope and '.' not in kind else kind)
        except Exception:  # of many kinds; building the part says what is wrong
            return None
    return kind if inspect.isclass(kind) else None


def default_of(kind: Optional[type], name: str) -> Any:
    """Return the default of a constructor's argument, also of a base class's; else None."""
    for base in inspect.getmro(kind) if kind else ():
        own = vars(base).get('__init__')
        parameter = inspect.signature(own).parameters.get(name) if inspect.isfunction(own) else None
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None


def written_classes(dataset: Dict) -> Optional[Tuple[str, ...]]:
    """Return the class names that a data set's config gives; None if it gives none."""
    classes = _get(dataset.get('metainfo'), 'classes') or dataset.get('classes')
    if isinstance(classes, str):
        path = osp.expanduser(classes)
        classes = list_from_file(path) if osp.isfile(path) else None
    return tuple(classes) if isinstance(classes, (list, tuple)) else None


def classes_of(cfg: Dict, dataset: Dict) -> Optional[Tuple[str, ...]]:
    """Return a data set's class names: the config's, or those of its type; None if unknown."""
    written = written_classes(dataset)
    if written is not None or dataset.get('return_classes'):  # names are texts to look for
        return written
    kind = class_of(cfg, dataset, DATASETS)
    if 'BaseVideoDataset' in base_names(kind):  # tracks are scored, whatever their class
        return None
    classes = getattr(kind, 'METAINFO', {}).get('classes')
    return tuple(classes) if isinstance(classes, (list, tuple)) else None


def base_names(kind: Optional[type]) -> List[str]:
    """Return the names of a class and of its bases; none for None."""
    return [base.__name__ for base in inspect.getmro(kind)] if kind else []


def count(part: Any, name: str) -> Optional[int]:
    """Return a field that is an integer, else None."""
    value = _get(part, name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _get(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else None
