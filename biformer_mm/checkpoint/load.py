"""Load backbones and whole models, and report every mismatch."""

import logging
import re
from collections import Counter, defaultdict
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from torch import Tensor, nn

from .download import local_path, without_secrets
from .names import convert_names, is_head, listing
from .read import CheckpointError, read_checkpoint, split_weights
from .whole_model import BACKBONE, class_names, convert_model, is_ema, split_backbone

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
    """Load pretrained weights into a :class:`BiFormer`, and log what happened.

    All weights of the stem, the downsampling layers and the stages must be
    there and fit. A classifier's head, the other parts of a whole model and
    the stages after the last of ``out_indices`` are left out, and an output
    norm is loaded only if the checkpoint has one of the same kind. One line of
    the log names all of these.

    Args:
        backbone: The model to fill, a :class:`BiFormer`.
        checkpoint: Path or URL of a backbone, a classifier, a detector or a
            segmentor, with released names or ours.
        prefix: Load only the weights below it, such as 'teacher.backbone'.
            None means 'backbone' if there is one.
        strict: Whether to refuse weights that do not fit. Otherwise they are
            named in the log, and the others are loaded.
        trust: Unpickle whatever the file holds. A pickle can run any code.

    Raises:
        CheckpointError: The file is not a checkpoint, see
            :func:`read_checkpoint`, or has unknown, missing or wrongly shaped
            weights, which are named. It is a ValueError.
    """
    content, source = _read(checkpoint, trust)
    weights, others = _choose(split_weights(content, source)[0], prefix, source)
    names = convert_names(weights)
    expected = backbone.state_dict()
    unbuilt = backbone.unbuilt_weights(names.weights)
    built = {n: t for n, t in names.weights.items() if n not in unbuilt}
    left_over, fresh = _unpaired(built, expected)
    given = {n: t for n, t in built.items() if n not in left_over}
    taken = {n: t for n, t in given.items() if n in expected and t.shape == expected[n].shape}
    if not given or not (strict or taken):
        raise CheckpointError(
            f'{source} is not a BiFormer: none of its {len(weights)} '
            f'weights fits, such as {listing(list(weights), 3)}; give a '
            'checkpoint of one, or the prefix that its names have'
        )

    misfits = _misfits(
        given, {n: t for n, t in expected.items() if n not in fresh}, unknown=names.unknown
    )
    if misfits and strict:
        _check_arch(backbone, given, source)
        raise CheckpointError(
            f'{source} does not fit this BiFormer, check its arch and '
            f'in_channels, or set strict=False in init_cfg: {misfits}'
        )
    backbone.load_state_dict({**expected, **taken})

    renamed = [f'{names.origins[n]} -> {n}' for n in names.renamed if n in taken]
    left_over += _count_by_part(unbuilt, depth=2) + _count_by_part(others)
    print_log(
        f'BiFormer: {len(taken)} of {len(expected)} tensors from {source}'
        f', {len(renamed)} of them renamed'
        f'{", as " + renamed[0] if renamed else ""}; '
        f'left over: {listing(left_over) or "none"}; '
        f'kept as initialised: {listing(fresh) or "none"}'
        f'{"; passed over (strict=False): " + misfits if misfits else ""}',
        logger='current',
        level=logging.WARNING if misfits else logging.INFO,
    )


def load_model(model: nn.Module, checkpoint: str, trust: bool = False) -> Dict[str, Any]:
    """Load all weights of a whole model; each must be there and fit.

    Stages after the last of a BiFormer's ``out_indices`` are left out, and
    named in the log.

    Args:
        model: Classifier, detector or segmentor to fill.
        checkpoint: Path or URL of a model trained here, or of a released one,
            whose names are converted.
        trust: Unpickle whatever the file holds. A pickle can run any code.

    Returns:
        ``dataset_meta``, the names and colours of the classes. It is empty if
        the checkpoint has none.

    Raises:
        CheckpointError: The file is not a checkpoint, see
            :func:`read_checkpoint`, or has unknown, missing or wrongly shaped
            weights, which are named.
    """
    content, source = _read(checkpoint, trust)
    weights, rest = split_weights(content, source)
    expected = model.state_dict()
    if _built(model, weights).keys() != expected.keys():
        with suppress(CheckpointError):  # another network: named below
            token_head = any('.aux_head.' in n for n in expected)
            weights = convert_model(content, source=source, token_head=token_head).weights
    misfits = _misfits(_built(model, weights), expected)
    if misfits:
        raise CheckpointError(
            f'{source} does not fit the model of the config, give the one '
            f'that it was trained with: {misfits}'
        )
    model.load_state_dict(weights)  # the backbone says which stages it leaves out
    return class_names(rest.get('meta')).get('dataset_meta', {})


def _read(checkpoint: str, trust: bool) -> Tuple[Dict[str, Any], str]:
    """Return what a checkpoint holds, and its name for messages."""
    with local_path(checkpoint) as path:
        return read_checkpoint(path, trust), without_secrets(str(checkpoint))


def _built(model: nn.Module, weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return the weights without those of stages that a BiFormer does not build."""
    kept = dict(weights)
    for name, part in model.named_modules():
        if hasattr(part, 'unbuilt_weights'):
            for unbuilt in part.unbuilt_weights(weights, f'{name}.' if name else ''):
                del kept[unbuilt]
    return kept


def _misfits(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], unknown: Sequence[str] = ()
) -> str:
    """List unexpected, missing and wrongly shaped weights; '' if there are none."""
    misfits = {
        'unexpected': [*unknown, *(n for n in given if n not in expected)],
        'missing': [n for n in expected if n not in given],
        'of another shape': [
            f'{n} {tuple(t.shape)}, not {tuple(expected[n].shape)}'
            for n, t in given.items()
            if n in expected and t.shape != expected[n].shape
        ],
    }
    return '; '.join(f'{what}: {listing(found)}' for what, found in misfits.items() if found)


def _choose(
    weights: Mapping[str, Tensor], prefix: Optional[str], source: str
) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    """Split the weights into the backbone's and the others."""
    if prefix is None:
        return split_backbone(weights, BACKBONE)
    prefix = prefix.rstrip('.') + '.'
    if not any(n.startswith(prefix) for n in weights):
        parts = sorted({n.partition('.')[0] for n in weights})
        raise CheckpointError(
            f'no key of {source} starts with {prefix!r}; they start with {listing(parts)}'
        )
    return split_backbone(weights, prefix)


def _unpaired(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Tuple[List[str], List[str]]:
    """Return the names that only the checkpoint, or only the model may have.

    These are a classifier's head, and output norms for which the other side
    has none or another kind, such as a batch norm.
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
    """Return 'out_norms.3' for 'out_norms.3.weight', None for any other weight."""
    return name.rpartition('.')[0] if name.startswith('out_norms.') else None


def _count_by_part(names: Iterable[str], depth: int = 1) -> List[str]:
    parts = Counter('ema_*' if is_ema(n) else '.'.join(n.split('.')[:depth]) for n in names)
    return [f'{part} ({count} tensors)' for part, count in parts.items()]


def _check_arch(backbone: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Raise if channels or depths differ, instead of listing every weight."""
    theirs, ours = _layout(weights), _layout(backbone.state_dict())
    if theirs == ours:
        return
    count = len(theirs[1])
    if count and theirs == (ours[0][:count], ours[1][:count]):
        raise CheckpointError(
            f"{source} has only the first {count} of the model's {len(ours[1])} stages; set "
            f'out_indices to stages below {count}, or strict=False in init_cfg'
        )
    names = [
        repr(name)
        for name, arch in backbone.arch_zoo.items()
        if (arch['embed_dims'][:count], arch['depths'][:count]) == theirs
    ]
    raise CheckpointError(
        f'{source} is of another architecture: embed_dims {theirs[0]} and '
        f'depths {theirs[1]}, the model has {ours[0]} and {ours[1]}; set arch '
        f'to {names[0] if names else "a dict with these"}'
    )


def _layout(weights: Mapping[str, Tensor]) -> Tuple[Tuple, Tuple]:
    """Return the channels and the numbers of blocks of the stages."""
    dims, blocks = {}, defaultdict(set)
    for name, tensor in weights.items():
        match = _BLOCK_NORM.fullmatch(name)
        if match:
            dims[int(match[1])] = tensor.numel()
            blocks[int(match[1])].add(match[2])
    return (tuple(dims[i] for i in sorted(dims)), tuple(len(blocks[i]) for i in sorted(blocks)))
