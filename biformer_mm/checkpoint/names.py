"""Convert released weight names to ours; pure dict -> dict.

Needs only torch.
"""

import re
from typing import Any, Dict, List, Mapping, NamedTuple

from torch import Tensor

from .read import CheckpointError, split_weights

_ATTN = r'((?:stages\.\d+\.\d+\.attn\.)?)'  # absent in a bare attention layer

# Released name -> ours, each applied to the whole name, in this order. Our own
# names pass unchanged.
_RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r'(stages\.\d+\.)blocks\.(.+)', r'\1\2'),
        (r'downsample_layers\.0\.(.+)', r'stem.\1'),
        (r'downsample_layers\.(\d{1,4})\.(.+)', lambda m: f'downsamples.{int(m[1]) - 1}.{m[2]}'),
        (r'(stages\.\d+\.\d+\.)pos_embed\.(.+)', r'\1pos_conv.\2'),
        (r'(stages\.\d+\.\d+\.mlp\.)0\.(.+)', r'\1fc1.\2'),
        (r'(stages\.\d+\.\d+\.mlp\.)[23]\.(.+)', r'\1fc2.\2'),
        (_ATTN + r'(?:qkv\.qkv|qkv_linear)\.(.+)', r'\1qkv.\2'),
        (_ATTN + r'(?:wo|output_linear)\.(.+)', r'\1proj.\2'),
        (_ATTN + r'lepe\.(.+)', r'\1lce.\2'),
        (r'extra_norms\.(\d+)\.(.+)', r'out_norms.\1.\2'),
        (r'head\.(weight|bias)', r'head.fc.\1'),
    )
)
_LAST_NORM = re.compile(r'norm\.(.+)')

_AFFINE = r'(?:weight|bias)'
_NORM = r'(?:weight|bias|running_mean|running_var|num_batches_tracked)'
_OURS = re.compile(
    '|'.join(
        (
            rf'(?:stem|downsamples\.\d+)\.\d+\.{_NORM}',
            rf'stages\.\d+\.\d+\.(?:pos_conv|norm[12]|mlp\.fc[12])\.{_AFFINE}',
            rf'{_ATTN}(?:qkv|lce|proj)\.{_AFFINE}',
            rf'out_norms\.\d+\.{_NORM}',
            rf'(?:head\.fc|aux_head)\.{_AFFINE}',  # the latter of token labelling
        )
    )
)


class Names(NamedTuple):
    """Weights under our names.

    Attributes:
        weights: Our name -> tensor.
        origins: Our name -> the name in the checkpoint.
        unknown: Names that no weight of a BiFormer has.
    """

    weights: Dict[str, Tensor]
    origins: Dict[str, str]
    unknown: List[str]

    @property
    def renamed(self) -> List[str]:
        """Return the names of ours that differ from the checkpoint's."""
        return [ours for ours, theirs in self.origins.items() if ours != theirs]


def convert_state_dict(state_dict: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Rename the weights of a released BiFormer to this package's names.

    Args:
        state_dict: Weights of a backbone, a classifier or a single attention
            layer, with released names or ours, bare or in an outer dict that
            holds them as 'state_dict' or 'model'. It is not changed.

    Returns:
        The same tensors under our names; 1x1 convolutions (O, I, 1, 1) of the
        attention become linear layers (O, I). A classifier's head is named as
        in mmpretrain, ``head.fc``; that of token labelling stays ``aux_head``.

    Raises:
        CheckpointError: Names are unknown, or two of them mean the same
            weight. It is a ValueError.
    """
    weights, _ = split_weights(state_dict, 'the checkpoint')
    names = convert_names(weights)
    if names.unknown:
        raise CheckpointError(
            f'not a BiFormer checkpoint: {len(names.unknown)} of its '
            f'{len(weights)} keys are unknown: {listing(names.unknown)}'
        )
    return names.weights


def convert_names(weights: Mapping[str, Tensor]) -> Names:
    """Rename the known weights; see :func:`convert_state_dict`.

    Raises:
        CheckpointError: Two names mean the same weight.
    """
    stages = re.findall(r'\bstages\.(\d{1,4})\b', ' '.join(weights))
    last_stage = max(map(int, stages), default=0)
    names = Names({}, {}, [])
    for released, tensor in weights.items():
        ours = _rename(released, last_stage)
        if not _OURS.fullmatch(ours):
            names.unknown.append(released)
            continue
        if ours in names.weights:
            raise CheckpointError(
                f'two keys of the checkpoint mean {ours!r}: '
                f'{names.origins[ours]!r} and {released!r}; remove one'
            )
        if tensor.dim() == 4 and ours.endswith(('qkv.weight', 'proj.weight')):
            tensor = tensor.flatten(1)
        names.weights[ours], names.origins[ours] = tensor, released
    return names


def is_head(name: str) -> bool:
    """Return whether our name of a weight belongs to a classifier's heads."""
    return name.startswith(('head.', 'aux_head.'))


def listing(names: List[str], most: int = 20) -> str:
    """Join names for a message, at most ``most`` of them."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(map(_in_line, names[:most])) + more


def _in_line(name: str) -> str:
    """Shorten a name, and escape it if it is not printable."""
    if not name.isprintable():
        name = repr(name)
    return name if len(name) <= 200 else f'{name[:200]}...'


def _rename(name: str, last_stage: int) -> str:
    for pattern, new in _RENAMES:
        match = pattern.fullmatch(name)
        if match:
            name = new(match) if callable(new) else match.expand(new)
    match = _LAST_NORM.fullmatch(name)
    return f'out_norms.{last_stage}.{match[1]}' if match else name
