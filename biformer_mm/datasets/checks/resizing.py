"""By how much a pipeline enlarges its images."""

from itertools import chain
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from biformer_mm.utils.config_types import bare_type_name

# Resize to a size that their arguments give.
_FIXED = ('Resize', 'FixScaleResize', 'ResizeShortestEdge')
# Parts of the names of other steps that enlarge.
_UNKNOWN = ('Resize', 'Affine', 'Expand', 'Mosaic', 'MixUp', 'Albu', 'AutoAug', 'TestTimeAug')


def enlargement(pipeline: Any, size: Tuple[int, int]) -> Optional[Tuple[float, float]]:
    """Return the least and the largest factor by which an image's sides are resized.

    Factors of width and height that differ count by the root of their product.

    Args:
        pipeline: The steps, of mmdet or mmseg.
        size: Width and height of the image in pixels.

    Returns:
        Two factors; None if nothing resizes, or if an image may be cropped before
        it is resized or is resized in a way that is not known.
    """
    found: List[float] = []
    cropped = False
    for step in _steps(pipeline):
        name = bare_type_name(step)
        scales = _scales(name, step)
        if scales is not None:
            if cropped or not scales:
                return None
            kind = bare_type_name(dict(type=step.get('resize_type', name)))
            shortest = kind == 'ResizeShortestEdge'
            found += [_factor(scale, size, step, shortest) for scale in scales]
        elif any(part in name for part in _UNKNOWN) and name != 'ResizeToMultiple':
            return None
        cropped |= 'Crop' in name
    return (min(found), max(found)) if found else None


def _steps(pipeline: Any) -> Iterator[Dict]:
    """Yield the steps of a pipeline, also those inside other steps."""
    if isinstance(pipeline, (list, tuple)):
        yield from chain.from_iterable(map(_steps, pipeline))
    elif isinstance(pipeline, dict):
        yield pipeline
        yield from _steps(pipeline.get('transforms'))


def _scales(name: str, step: Dict) -> Optional[Sequence]:
    """Return the sizes that a step resizes to; None if it does not, none if it is not known.

    For random sizes, these are the least and the largest.
    """
    scale = step.get('scale')
    if name in _FIXED:
        return [scale] if _is_scale(scale) else []
    if name == 'RandomChoiceResize':
        scales = step.get('scales')
        scales = scales if isinstance(scales, list) else [scales]
        return scales if all(map(_is_scale, scales)) else []
    if name == 'RandomResize':
        ratios = step.get('ratio_range')
        if _is_scale(scale) and isinstance(ratios, (list, tuple)):
            return [[side * ratio for side in _sides(scale)] for ratio in ratios]
        if isinstance(scale, (list, tuple)) and all(map(_is_scale, scale)):
            return [[choose(sides) for sides in zip(*map(_sides, scale))] for choose in (min, max)]
        return []
    return None


def _is_scale(scale: Any) -> bool:
    if isinstance(scale, (list, tuple)):
        return len(scale) == 2 and all(isinstance(side, (int, float)) for side in scale)
    return isinstance(scale, int) and scale > 0


def _sides(scale: Any) -> Sequence[float]:
    return scale if isinstance(scale, (list, tuple)) else (scale, scale)


def _factor(scale: Any, size: Tuple[int, int], step: Dict, shortest: bool) -> float:
    """Return the factor of one scale, as mmcv's Resize or mmseg's ResizeShortestEdge take it."""
    sides = _sides(scale)
    if shortest:
        return min(min(sides) / min(size), step.get('max_size', float('inf')) / max(size))
    if step.get('keep_ratio'):
        return min(max(sides) / max(size), min(sides) / min(size))
    return (sides[0] * sides[1] / (size[0] * size[1])) ** 0.5
