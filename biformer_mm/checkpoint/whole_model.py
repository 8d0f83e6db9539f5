"""Convert whole models of the authors' forks to OpenMMLab's; pure dict -> dict.

The forks are of mmdet 2, mmseg 0.x and a plain classifier. Names of the
backbone change. Those of necks and heads of RetinaNet, Mask R-CNN, Semantic
FPN and UperNet do not: the state dicts of mmdet 2.28.2 and mmseg 0.30.0 have
the names and shapes of mmdet 3's and mmseg 1's.

Needs only torch.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from torch import Tensor

from .names import convert_names, is_head, listing
from .read import CheckpointError, split_weights

BACKBONE = 'backbone.'
_EMA = 'running average (EMA)'
_TOKEN_HEAD = 'aux_head.'
# The parts of a model beside its backbone.
PARTS = {
    'cls': ('head',),
    'det': ('neck', 'bbox_head', 'rpn_head', 'roi_head'),
    'seg': ('neck', 'decode_head', 'auxiliary_head'),
}


class WholeModel(NamedTuple):
    """A converted checkpoint.

    Attributes:
        weights: Name -> tensor, of a whole model if ``task`` is given, and of
            a backbone otherwise.
        origins: Name -> the name in the checkpoint.
        dropped: (name in the checkpoint, reason) of each entry left out.
        task: 'cls', 'det', 'seg', or None for a backbone only.
        meta: ``dataset_meta`` for OpenMMLab's inferencers, the names and
            colours of the classes, if the checkpoint has them.
    """

    weights: Dict[str, Tensor]
    origins: Dict[str, str]
    dropped: List[Tuple[str, str]]
    task: Optional[str]
    meta: Dict[str, Any]


def convert_model(
    checkpoint: Mapping[str, Any],
    task: Optional[str] = None,
    source: str = 'the checkpoint',
    token_head: bool = False,
) -> WholeModel:
    """Convert a classifier, detector, segmentor or backbone.

    Args:
        checkpoint: The content of a released checkpoint or one of ours. It is
            not changed.
        task: The required task, 'cls', 'det' or 'seg'; None accepts any.
        source: The name of the checkpoint in error messages.
        token_head: Keep a classifier's second head, of token labelling, for
            our ``TokenLabelHead``, if there is one.

    Raises:
        CheckpointError: It has another task, or unknown names.
    """
    weights, rest = split_weights(checkpoint, source)
    dropped = [
        (key, _EMA if 'ema' in key else 'training state') for key in map(str, rest) if key != 'meta'
    ]
    dropped += [(n, _EMA) for n in weights if is_ema(n)]
    weights = {n: t for n, t in weights.items() if not is_ema(n)}

    inside, others = split_backbone(weights)
    found = _find_task(inside, others)
    if task not in (None, found):
        raise CheckpointError(
            f'{source} is {_describe(found)}, not {_describe(task)}; leave '
            f'the task {task!r} out or give another checkpoint'
        )
    names = convert_names(inside)
    known = PARTS.get(found, ())
    unknown = names.unknown + [n for n in others if n.partition('.')[0] not in known]
    if unknown:
        raise CheckpointError(
            f'{source} is not a BiFormer classifier, RetinaNet, Mask R-CNN, '
            f'Semantic FPN or UperNet: {len(unknown)} of its {len(weights)} '
            f'names are of none: {listing(unknown)}; give a checkpoint of '
            'one of these'
        )

    prefix = BACKBONE if any(n.startswith(BACKBONE) for n in weights) else ''
    unread = _unread_norms(names.weights, others)
    converted, origins = {}, {}
    for ours, tensor in names.weights.items():
        theirs = prefix + names.origins[ours]
        if ours.startswith(_TOKEN_HEAD) and token_head and not prefix:
            converted['head.' + ours], origins['head.' + ours] = tensor, theirs
        elif ours.startswith(_TOKEN_HEAD):
            dropped.append((theirs, "token labelling's head"))
        elif is_head(ours) and prefix:
            dropped.append((theirs, "a classifier's head"))
        elif ours.startswith(unread):
            dropped.append((theirs, 'norm of a map that the neck leaves out'))
        else:
            if found and not is_head(ours):
                ours = BACKBONE + ours
            converted[ours], origins[ours] = tensor, theirs
    converted.update(others)
    origins.update((n, n) for n in others)
    return WholeModel(converted, origins, dropped, found, class_names(rest.get('meta')))


def is_ema(name: str) -> bool:
    """Return whether a weight is a running average (EMA) from before MMEngine."""
    return name.startswith('ema_')


def split_backbone(
    weights: Mapping[str, Tensor], prefix: str = BACKBONE
) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    """Split weights into those below a prefix, without it, and the others.

    If none is below the prefix, all weights are in the first part.
    """
    inside = {n[len(prefix) :]: t for n, t in weights.items() if n.startswith(prefix)}
    if not inside:
        return dict(weights), {}
    return inside, {n: t for n, t in weights.items() if not n.startswith(prefix)}


def _find_task(inside: Mapping, others: Mapping) -> Optional[str]:
    parts = {n.partition('.')[0] for n in (others or inside)}
    for task, names in PARTS.items():
        if parts.intersection(names) - {'neck'}:
            return task
    return None


def _describe(task: Optional[str]) -> str:
    return {'cls': 'a classifier', 'det': 'a detector', 'seg': 'a segmentor'}.get(
        task, 'only a backbone'
    )


def _unread_norms(backbone: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Tuple[str, ...]:
    """Return the prefixes of output norms whose stages the neck does not read.

    The forks apply a norm to the maps of all stages, though RetinaNet's neck
    leaves the first out; here the backbone returns only the maps that are read.
    """
    channels = [
        t.shape[1]
        for n, t in others.items()
        if n.startswith('neck.lateral_convs.') and n.endswith('conv.weight') and t.dim() == 4
    ]
    widths = []
    while f'stages.{len(widths)}.0.norm1.weight' in backbone:
        norm = backbone[f'stages.{len(widths)}.0.norm1.weight']
        widths.append(norm.numel())
    first = len(widths) - len(channels)
    if not channels or widths[max(first, 0) :] != channels:
        return ()
    return tuple(f'out_norms.{stage}.' for stage in range(first))


def class_names(meta: Any) -> Dict[str, Any]:
    """Return ``dataset_meta`` as plain data, from the meta of MMEngine or mmcv 1."""
    if not isinstance(meta, Mapping):
        return {}
    found = meta.get('dataset_meta')
    if not isinstance(found, Mapping):
        found = {k.lower(): meta[k] for k in ('CLASSES', 'PALETTE') if k in meta}
    plain = {}
    for key, kind in (('classes', str), ('palette', (list, tuple))):
        values = found.get(key)
        if isinstance(values, (list, tuple)) and all(isinstance(value, kind) for value in values):
            plain[key] = values
    return dict(dataset_meta=plain) if plain else {}
