"""Settings of a detector's test that lower the metrics of COCO."""

from collections import Counter
from typing import Any, Dict, Iterator, Sequence, Tuple

from biformer_mm.datasets.checks.paths import evaluators_of
from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

_SCORE = 0.1  # recipes have 0.05 or less
_COCO_LIMIT = 100  # detections per image that count for mAP, whatever proposal_nums is
_LOST = 0.01  # share of the objects


def check_score_thresholds(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Warn of score thresholds that remove detections which CocoMetric counts."""
    kinds = {bare_type_name(metric) for split in splits for _, metric in evaluators_of(cfg, split)}
    if not kinds & {'CocoMetric', 'FasterCocoMetric'}:
        return
    for key, value in _values('model', cfg.get('model'), 'score_thr'):
        if '.test_cfg.' in key and isinstance(value, (int, float)) and value > _SCORE:
            yield Problem(
                'score-threshold',
                key,
                f'a threshold must be at most {_SCORE} to measure mAP, as detections below it '
                f'count as missed; got {value}; set {key}=0.05 (for pictures, '
                'default_hooks.visualization.score_thr is enough)',
            )


def check_crowded(path: str, content: Dict[str, Any], cfg: Dict) -> Iterator[Problem]:
    """Find images with more objects than detections are evaluated.

    Args:
        path: The annotation file.
        content: What is in it.
        cfg: The config, for ``max_per_img``.

    Yields:
        ``crowded`` (warning), if more than 1 % of the objects cannot be found.
    """
    limits = [
        value
        for key, value in _values('model', cfg.get('model'), 'max_per_img')
        if key in ('model.test_cfg.max_per_img', 'model.test_cfg.rcnn.max_per_img')
        and isinstance(value, int)
    ]
    limit = min([_COCO_LIMIT, *(value for value in limits if value > 0)])
    objects = Counter(
        annotation.get('image_id')
        for annotation in content.get('annotations', ())
        if not annotation.get('iscrowd')
    )
    full = [count for count in objects.values() if count > limit]
    lost, total = sum(full) - limit * len(full), sum(objects.values())
    if lost > _LOST * total:
        yield Problem(
            'crowded',
            path,
            f'{len(full)} of {len(content.get("images", ()))} images have more than {limit} '
            f'objects, and mAP counts {limit} detections per image at most: {lost / total:.0%} of '
            f'the objects cannot be found; raise model.test_cfg max_per_img to {_COCO_LIMIT} if '
            'it is lower, or cut the images into tiles',
        )


def _values(key: str, part: Any, name: str) -> Iterator[Tuple[str, Any]]:
    """Yield (field, value) of all fields of a name in nested dicts and lists."""
    items: Sequence[Tuple[Any, Any]] = ()
    if isinstance(part, dict):
        items = list(part.items())
    elif isinstance(part, (list, tuple)):
        items = list(enumerate(part))
    for inner, value in items:
        if inner == name:
            yield f'{key}.{inner}', value
        else:
            yield from _values(f'{key}.{inner}', value, name)


RULES = (check_score_thresholds,)
