"""Find evaluations that are skipped, incomplete, or fail after a whole run."""

import re
from typing import Any, Dict, Iterator, Sequence

from mmengine.registry import DATASETS

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

from .parts import Part, base_names, class_of, count, data_sets, evaluators, heads

_COCO = ('CocoMetric', 'FasterCocoMetric')
# Data sets that repeat items: those that are drawn more often count more.
_REPEATING = ('RepeatDataset', 'ClassBalancedDataset')


def check_metrics(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Check the metrics' arguments against the model and the evaluation's own rules."""
    for split in _evaluated(splits):
        for key, metric in evaluators(cfg, split):
            if bare_type_name(metric) in _COCO:
                yield from _coco(cfg, key, metric)
            elif bare_type_name(metric) == 'Accuracy':
                yield from _accuracy(cfg, key, metric)


def _coco(cfg: Dict, key: str, metric: Dict) -> Iterator[Problem]:
    tasks = metric.get('metric', 'bbox')
    tasks = list(tasks) if isinstance(tasks, (list, tuple)) else [tasks]
    if 'segm' in tasks and _finds_only_boxes(cfg):
        yield Problem(
            'evaluator-task',
            f'{key}.metric',
            'segm needs masks, and the heads of the model find boxes only, which fails after the '
            f'whole evaluation; set {key}.metric=bbox',
        )
    limits = metric.get('proposal_nums')
    # The other two read the mAP at the last number.
    plain = bare_type_name(metric) == 'CocoMetric' and not metric.get('use_mp_eval')
    scored = isinstance(limits, (list, tuple)) and ('bbox' in tasks or 'segm' in tasks)
    if plain and scored and (len(limits) < 3 or 100 not in limits):
        yield Problem(
            'evaluator-limits',
            f'{key}.proposal_nums',
            f'{tuple(limits)}, but mAP is read at 100 detections, and three numbers are needed: '
            'mAP would be -1, or the evaluation fails at its end; set '
            f'"{key}.proposal_nums=(100,300,1000)"',
        )


def _finds_only_boxes(cfg: Dict) -> bool:
    """Return whether the model has box heads and no name of a part speaks of masks."""
    model = cfg.get('model') or {}
    parts = {k: v for k, v in model.items() if k.endswith('head') or k == 'type'}
    boxes = any(re.search(r'bbox_head(\.\d+)?$', key) for key, _ in heads(cfg))
    return boxes and not re.search('mask|ins|segm|panoptic', _names(parts), re.IGNORECASE)


def _names(part: Any) -> str:
    """Join the keys and types of nested parts."""
    if isinstance(part, dict):
        inner = (f'{k} {_names(v)}' for k, v in part.items() if k not in ('train_cfg', 'test_cfg'))
        return ' '.join([bare_type_name(part), *inner])
    return ' '.join(map(_names, part)) if isinstance(part, (list, tuple)) else ''


def _accuracy(cfg: Dict, key: str, metric: Dict) -> Iterator[Problem]:
    classes = count((cfg.get('model') or {}).get('head'), 'num_classes')
    wanted = metric.get('topk', 1)
    most = max(wanted) if isinstance(wanted, (list, tuple)) and wanted else wanted
    if classes is not None and isinstance(most, int) and most > classes:
        yield Problem(
            'topk',
            f'{key}.topk',
            f'{wanted}, but model.head.num_classes is {classes}, which fails after the whole '
            f'evaluation; set {key}.topk=1',
        )


def check_skipped(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Warn if validation begins after the end of the training."""
    loop = cfg.get('train_cfg') or {}
    if 'train' not in splits or not cfg.get('val_dataloader'):
        return
    for name in ('max_epochs', 'max_iters'):
        begin, end = count(loop, 'val_begin'), count(loop, name)
        if begin is not None and end is not None and begin > end:
            saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
            best = ', and save_best never saves' if saving.get('save_best') else ''
            yield Problem(
                'evaluation-skipped',
                'train_cfg.val_begin',
                f'{begin}, but train_cfg.{name} is {end}: nothing is ever validated{best}; set '
                f'train_cfg.val_begin={end} or less',
            )


def check_test_mode(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse filters of the training in an evaluation of boxes.

    A data set of mmdet applies its ``filter_cfg`` unless ``test_mode`` is set.
    """
    for option, dataset in data_sets(cfg, _evaluated(splits)):
        rules = dataset.get('filter_cfg') or {}
        filters = [name for name in ('filter_empty_gt', 'min_size') if rules.get(name)]
        bases = base_names(class_of(cfg, dataset, DATASETS)) if filters else ()
        if 'BaseDetDataset' in bases and not dataset.get('test_mode'):
            yield Problem(
                'test-mode',
                f'{option}.test_mode',
                f'False, so filter_cfg ({", ".join(filters)}) leaves images out of the '
                f'evaluation; set {option}.test_mode=True',
            )


def check_whole(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse evaluations that leave images out or repeat some."""
    for split in _evaluated(splits):
        key, loader = f'{split}_dataloader', cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict):
            continue
        if loader.get('drop_last') and loader.get('batch_size') != 1:
            yield Problem(
                'evaluated-part',
                f'{key}.drop_last',
                'True leaves the images of the last batch out of the evaluation; set '
                f'{key}.drop_last=False',
            )
        if loader.get('num_batch_per_epoch') is not None:
            yield Problem(
                'evaluated-part',
                f'{key}.num_batch_per_epoch',
                f'{loader["num_batch_per_epoch"]} leaves all later batches out of the '
                f'evaluation; set {key}.num_batch_per_epoch=None',
            )
        for option, wrapper in _wrappers(f'{key}.dataset', loader.get('dataset')):
            if bare_type_name(wrapper) in _REPEATING:
                yield Problem(
                    'evaluated-part',
                    f'{option}.type',
                    f'{bare_type_name(wrapper)} evaluates images more than once; use the data '
                    f'set that it wraps as {option}',
                )


def _wrappers(option: str, dataset: Any) -> Iterator[Part]:
    """Yield the wrappers around data sets, from the outside."""
    if isinstance(dataset, dict) and ('dataset' in dataset or 'datasets' in dataset):
        yield option, dataset
        yield from _wrappers(f'{option}.dataset', dataset.get('dataset'))
        for i, inner in enumerate(dataset.get('datasets') or ()):
            yield from _wrappers(f'{option}.datasets.{i}', inner)


def _evaluated(splits: Sequence[str]) -> Sequence[str]:
    return [split for split in splits if split != 'train']


RULES = (check_metrics, check_skipped, check_test_mode, check_whole)
