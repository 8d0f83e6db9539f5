"""A loader for pretrained backbones that hides nothing."""

import logging
import re
from collections import Counter, defaultdict
from importlib.util import find_spec
from typing import Dict, List, Mapping, Optional, Tuple

from torch import Tensor, nn

from .files import local_path
from .names import convert_names, is_head, listing
from .read import CheckpointError, read_checkpoint, split_weights
from .whole_model import BACKBONE, is_ema, split_backbone

if find_spec('mmengine'):  # without it, nothing here is called
    from mmengine.logging import print_log

_BLOCK_NORM = re.compile(r'stages\.(\d{1,4})\.(\d+)\.norm[12]\.weight')


def load_pretrained(
    backbone: nn.Module,
    checkpoint: str,
    prefix: Optional[str] = None,
    strict: bool = True,
    trust: bool = False,
) -> None:
    """Load pretrained weights into a :class:`BiFormer`, and say what happened.

    All weights of stem, downsampling and stages must be there and fit. What a
    whole model has beside its backbone is left over, so is a classifier's
    head, and an output norm is taken only if the checkpoint has one of the
    same kind; all are named in the log, in one line.

    Args:
        backbone: The model to fill, a :class:`BiFormer`.
        checkpoint: Path or URL of a backbone, a classifier, a detector or a
            segmentor, under released names or ours.
        prefix: Take only the weights below it, such as 'teacher.backbone'.
            None takes 'backbone' if there is one.
        strict: Whether to refuse what does not fit; else it is named in the
            log, and what fits is taken.
        trust: Unpickle whatever the file holds. A pickle can run any code.

    Raises:
        CheckpointError: The file is not a checkpoint, see
            :func:`read_checkpoint`; or weights are foreign, missing or wrongly
            shaped, which are named. It is a ValueError.
    """
    with local_path(checkpoint) as path:
        weights, _ = split_weights(read_checkpoint(path, trust), checkpoint)
    weights, others = _choose(weights, prefix, checkpoint)
    names = convert_names(weights)
    expected = backbone.state_dict()
    left_over, fresh = _unpaired(names.weights, expected)
    given = {n: t for n, t in names.weights.items() if n not in left_over}
    taken = {n: t for n, t in given.items() if n in expected and t.shape == expected[n].shape}
    if not given or not (strict or taken):
        raise CheckpointError(
            f'{checkpoint} is not a BiFormer: none of its {len(weights)} '
            f'weights fits, such as {listing(list(weights), 3)}; give a '
            'checkpoint of one, or the prefix that its names have'
        )

    misfits = {
        'unexpected': names.unknown + [n for n in given if n not in expected],
        'missing': [n for n in expected if n not in given and n not in fresh],
        'of another shape': [
            f'{n} {tuple(t.shape)}, not {tuple(expected[n].shape)}'
            for n, t in given.items()
            if n in expected and n not in taken
        ],
    }
    misfits = '; '.join(f'{what}: {listing(found)}' for what, found in misfits.items() if found)
    if misfits and strict:
        _check_arch(backbone, given, checkpoint)
        raise CheckpointError(
            f'{checkpoint} does not fit this BiFormer, check its arch and '
            f'in_channels, or set strict=False in init_cfg: {misfits}'
        )
    backbone.load_state_dict({**expected, **taken})

    renamed = [f'{names.origins[n]} -> {n}' for n in names.renamed if n in taken]
    left_over += _count_by_part(others)
    print_log(
        f'BiFormer: {len(taken)} of {len(expected)} tensors from {checkpoint}'
        f', {len(renamed)} of them renamed'
        f'{", as " + renamed[0] if renamed else ""}; '
        f'left over: {listing(left_over) or "none"}; '
        f'kept as initialised: {listing(fresh) or "none"}'
        f'{"; passed over (strict=False): " + misfits if misfits else ""}',
        logger='current',
        level=logging.WARNING if misfits else logging.INFO,
    )


def _choose(
    weights: Mapping[str, Tensor], prefix: Optional[str], checkpoint: str
) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    """The backbone's weights, and the others."""
    if prefix is None:
        return split_backbone(weights, BACKBONE)
    prefix = prefix.rstrip('.') + '.'
    if not any(n.startswith(prefix) for n in weights):
        parts = sorted({n.partition('.')[0] for n in weights})
        raise CheckpointError(
            f'no key of {checkpoint} starts with {prefix!r}; they start with {listing(parts)}'
        )
    return split_backbone(weights, prefix)


def _unpaired(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Tuple[List[str], List[str]]:
    """Names that may be on one side only: a head; output norms of which the
    other side has none or another kind, such as a batch norm.
    """
    left_over = [n for n in weights if is_head(n)]
    fresh = []
    norms = {_norm_of(n) for n in (*weights, *expected)} - {None}
    for norm in sorted(norms):
        given = [n for n in weights if _norm_of(n) == norm]
        wanted = [n for n in expected if _norm_of(n) == norm]
        if set(given) != set(wanted):
            left_over += given
            fresh += wanted
    return left_over, fresh


def _norm_of(name: str) -> Optional[str]:
    """'out_norms.3.weight' -> 'out_norms.3'; None for any other weight."""
    return name.rpartition('.')[0] if name.startswith('out_norms.') else None


def _count_by_part(names: Mapping[str, Tensor]) -> List[str]:
    parts = Counter('ema_*' if is_ema(n) else n.partition('.')[0] for n in names)
    return [f'{part} ({count} tensors)' for part, count in parts.items()]


def _check_arch(backbone: nn.Module, weights: Mapping[str, Tensor], checkpoint: str) -> None:
    """Refuse other channels and depths, without listing every weight."""
    theirs, ours = _layout(weights), _layout(backbone.state_dict())
    if theirs == ours:
        return
    names = [
        repr(name)
        for name, arch in backbone.arch_zoo.items()
        if (arch['embed_dims'], arch['depths']) == theirs
    ]
    raise CheckpointError(
        f'{checkpoint} is of another architecture: embed_dims {theirs[0]} and '
        f'depths {theirs[1]}, the model has {ours[0]} and {ours[1]}; set arch '
        f'to {names[0] if names else "a dict with these"}'
    )


def _layout(weights: Mapping[str, Tensor]) -> Tuple[Tuple, Tuple]:
    """Channels and number of blocks of the stages."""
    dims, blocks = {}, defaultdict(set)
    for name, tensor in weights.items():
        match = _BLOCK_NORM.fullmatch(name)
        if match:
            dims[int(match[1])] = tensor.numel()
            blocks[int(match[1])].add(match[2])
    return (tuple(dims[i] for i in sorted(dims)), tuple(len(blocks[i]) for i in sorted(blocks)))
