"""Rules about what an evaluation found."""

import logging
from typing import Any, Dict, Iterator, Sequence

from mmengine.evaluator import BaseMetric

from biformer_mm.datasets.checks.problems import Problem

_MOST_SHOWN = 5


def warn_of_absent_classes(metric: BaseMetric, logger: logging.Logger) -> None:
    """Warn, at the first evaluation, of classes of which there is no pixel.

    Args:
        metric: A metric of any framework, before the evaluation; one that is
            not mmseg's IoUMetric stays as it is.
        logger: Gets one warning, in the main process.
    """
    if not hasattr(metric, 'total_area_to_metrics') or getattr(metric, 'format_only', False):
        return

    def compute_and_look(results: list) -> Dict[str, float]:
        del metric.compute_metrics  # only once: the data stay the same
        names = metric.dataset_meta['classes']
        pixels = sum(areas[3] for areas in results)  # of the truth, per class
        absent = [name for name, count in zip(names, pixels) if not count]
        if absent:
            more = f' and {len(absent) - _MOST_SHOWN} more' if len(absent) > _MOST_SHOWN else ''
            logger.warning(
                f'{len(absent)} of {len(names)} classes have no pixel in the evaluated maps: '
                f'{", ".join(absent[:_MOST_SHOWN])}{more}. Their IoU is 0 if they are predicted, '
                'else nan and not in the mean. tools/misc/check_dataset.py looks for the cause.'
            )
        return metric.compute_metrics(results)

    metric.compute_metrics = compute_and_look


def check_metrics(
    option: str, metrics: Sequence[BaseMetric], results: Dict[str, Any]
) -> Iterator[Problem]:
    """Find metrics for COCO that give no figure, as nothing was detected.

    Args:
        option: The config's field, such as 'test_evaluator'.
        metrics: The metrics of the evaluator.
        results: What the evaluation returned.

    Yields:
        ``no-metrics`` (warning): a model that is hardly trained may detect nothing.
    """
    for metric in metrics:
        coco = any(kind.__name__ == 'CocoMetric' for kind in type(metric).__mro__)
        if not coco or metric.format_only:
            continue
        if not any(f'{metric.prefix}/' in name for name in results):
            yield Problem(
                'no-metrics',
                option,
                'there must be detections to evaluate, and there is none in any image; look for a '
                'score_thr in model.test_cfg that is too high, or an untrained head',
            )
