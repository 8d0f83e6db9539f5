"""Compare what data sets, heads and metrics of segmentation take for unlabelled."""

from typing import Dict, Iterator, List, Sequence, Tuple

from mmengine.registry import DATASETS

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

from .parts import base_names, class_of, count, data_sets, default_of, evaluators, heads, steps


def check_zero_label(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Compare ``reduce_zero_label`` of data sets, of their pipelines, and of the splits.

    Splits are compared where they have the same type of data set and load maps.
    """
    learnt: Dict[Tuple, Tuple[str, bool]] = {}
    for option, dataset in data_sets(cfg, splits):
        kind = class_of(cfg, dataset, DATASETS)
        if 'BaseSegDataset' not in base_names(kind):
            continue
        reduces = bool(dataset.get('reduce_zero_label', default_of(kind, 'reduce_zero_label')))
        loads = [
            (key, step)
            for key, step in steps(f'{option}.pipeline', dataset.get('pipeline'))
            if bare_type_name(step) == 'LoadAnnotations'
        ]
        for key, step in loads:
            if step.get('reduce_zero_label') not in (None, reduces):
                yield Problem(
                    'reduce-zero-label',
                    f'{key}.reduce_zero_label',
                    f'{not reduces}, but {option}.reduce_zero_label is {reduces}; set both to '
                    'True if 0 is unlabelled, else to False',
                )
        if not loads:
            continue
        first, theirs = learnt.setdefault((kind,), (option, reduces))
        if reduces != theirs and option.partition('.')[0] != first.partition('.')[0]:
            yield Problem(
                'reduce-zero-label',
                f'{option}.reduce_zero_label',
                f'{reduces}, but {first}.reduce_zero_label is {theirs}: each label would mean '
                'another class; set both to True if 0 is unlabelled, else to False',
            )


def check_ignored(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Compare the label that heads ignore with the one that the evaluation ignores.

    Leaving a class out of the evaluation that the heads learn is allowed.
    """
    for split in splits:
        for option, metric in evaluators(cfg, split) if split != 'train' else ():
            if bare_type_name(metric) != 'IoUMetric':
                continue
            scored = metric.get('ignore_index', 255)
            for key, head in _segmenting_heads(cfg):
                learnt, classes = head.get('ignore_index', 255), count(head, 'num_classes')
                if learnt in (None, scored) or classes is None:
                    continue
                if learnt >= classes and scored < classes:
                    continue
                what = (
                    f'class {learnt} is never learnt but evaluated'
                    if learnt < classes
                    else 'predictions at unlabelled pixels count as wrong'
                )
                yield Problem(
                    'ignore-index',
                    f'{key}.ignore_index',
                    f'{learnt}, but {option}.ignore_index is {scored}: {what}; set both to the '
                    'label of unlabelled pixels, 255 by default',
                )


def _segmenting_heads(cfg: Dict) -> List[Tuple[str, Dict]]:
    return [(k, head) for k, head in heads(cfg) if 'decode_head' in k or 'auxiliary_head' in k]


RULES = (check_zero_label, check_ignored)
