"""Compare COCO evaluators with the data sets of their split, before a run."""

import os.path as osp
from contextlib import redirect_stdout
from typing import Any, Dict, Iterator, Sequence, Tuple

from mmengine.registry import DATASETS, METRICS, init_default_scope

from biformer_mm.utils.config_types import bare_type_name

from .agreement import compare_evaluator
from .facts import facts_of, seeing_annotations
from .paths import evaluators_of, leaves
from .problems import Problem

_METRICS = ('CocoMetric', 'FasterCocoMetric')


def check_evaluator_files(cfg: Any, splits: Sequence[str]) -> Iterator[Tuple[str, Problem]]:
    """Yield (split, problem) of evaluators whose annotation file is not that of their data set.

    Files are read only where their paths differ: a copy is as good.

    Args:
        cfg: Config of mmdet whose paths exist.
        splits: Of 'train', 'val' and 'test'.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    for split in splits:
        if not cfg.get(f'{split}_dataloader'):
            continue
        parts = dict(leaves(f'{split}_dataloader.dataset', cfg[f'{split}_dataloader']['dataset']))
        ours = {osp.realpath(_ann_file(leaf)) for leaf in parts.values()}
        for option, config in evaluators_of(cfg, split):
            path = config.get('ann_file')
            if bare_type_name(config) not in _METRICS or not path or ours == {osp.realpath(path)}:
                continue
            for problem in _compare(parts, option, config):
                yield split, problem


def _ann_file(leaf: Dict) -> str:
    """Return a data set's annotation file, joined as MMEngine does."""
    return osp.join(leaf.get('data_root') or '', leaf.get('ann_file') or '')


def _compare(parts: Dict[str, Dict], option: str, config: Dict) -> Iterator[Problem]:
    try:
        contents: Dict[str, Dict] = {}
        with seeing_annotations(contents.__setitem__), redirect_stdout(None):
            built = {key: DATASETS.build({**leaf, 'pipeline': []}) for key, leaf in parts.items()}
            metric = METRICS.build(config)
    except Exception:  # of many kinds; the checks of the files say what is wrong
        return
    facts = [facts_of(key, data, contents.get(data.ann_file)) for key, data in built.items()]
    if None not in facts:
        yield from compare_evaluator(facts, option, metric, config['ann_file'])
