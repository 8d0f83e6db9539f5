"""Checkpoints: released names to ours, and a loader that hides nothing."""
import re
from typing import Any, Dict, List, Mapping, Optional, Tuple

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

_ATTN = r'((?:stages\.\d+\.\d+\.attn\.)?)'  # absent in a bare attention layer

# Released name -> ours, each applied to the whole name, in this order. A name
# that is ours already passes unchanged.
_RENAMES = tuple((re.compile(pattern), name) for pattern, name in (
    (r'module\.(.+)', r'\1'),
    (r'(stages\.\d+\.)blocks\.(.+)', r'\1\2'),
    (r'downsample_layers\.0\.(.+)', r'stem.\1'),
    (r'downsample_layers\.(\d+)\.(.+)',
     lambda m: f'downsamples.{int(m[1]) - 1}.{m[2]}'),
    (r'(stages\.\d+\.\d+\.)pos_embed\.(.+)', r'\1pos_conv.\2'),
    (r'(stages\.\d+\.\d+\.mlp\.)0\.(.+)', r'\1fc1.\2'),
    (r'(stages\.\d+\.\d+\.mlp\.)[23]\.(.+)', r'\1fc2.\2'),
    (_ATTN + r'(?:qkv\.qkv|qkv_linear)\.(.+)', r'\1qkv.\2'),
    (_ATTN + r'(?:wo|output_linear)\.(.+)', r'\1proj.\2'),
    (_ATTN + r'lepe\.(.+)', r'\1lce.\2'),
    (r'extra_norms\.(\d+)\.(.+)', r'out_norms.\1.\2'),
    (r'head\.(weight|bias)', r'head.fc.\1'),
))
_LAST_NORM = re.compile(r'norm\.(.+)')

_AFFINE = r'(?:weight|bias)'
_NORM = r'(?:weight|bias|running_mean|running_var|num_batches_tracked)'
_OURS = re.compile('|'.join((
    rf'(?:stem|downsamples\.\d+)\.\d+\.{_NORM}',
    rf'stages\.\d+\.\d+\.(?:pos_conv|norm[12]|mlp\.fc[12])\.{_AFFINE}',
    rf'{_ATTN}(?:qkv|lce|proj)\.{_AFFINE}',
    rf'out_norms\.\d+\.{_NORM}',
    rf'head\.fc\.{_AFFINE}',
)))


def convert_state_dict(state_dict: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Rename the weights of a released BiFormer to this package's names.

    Args:
        state_dict: Weights of a backbone, of a classifier or of one bare
            attention layer, under the names of either release or ours; with
            or without an outer dict that holds them as 'state_dict' or
            'model'. It is not changed.

    Returns:
        The same tensors under our names (1x1 convolutions as the linear layers
        that they are). A classifier's head is named as in mmpretrain,
        ``head.fc``.

    Raises:
        ValueError: Names are unknown, or two of them mean the same weight.
    """
    for outer in ('state_dict', 'model'):
        if isinstance(state_dict.get(outer), Mapping):
            state_dict = state_dict[outer]
            break
    stages = re.findall(r'\bstages\.(\d+)', ' '.join(state_dict))
    last_stage = max(map(int, stages), default=0)

    converted, unknown = {}, []
    for released, tensor in state_dict.items():
        name = _rename(released, last_stage)
        if not _OURS.fullmatch(name):
            unknown.append(released)
        elif name in converted:
            raise ValueError(f'two keys of the checkpoint mean {name!r}; the '
                             f'second is {released!r}')
        elif tensor.dim() == 4 and name.endswith(
            ('qkv.weight', 'proj.weight')):
            converted[name] = tensor.flatten(1)
        else:
            converted[name] = tensor
    if unknown:
        raise ValueError(f'not a BiFormer checkpoint: {len(unknown)} of its '
                         f'{len(state_dict)} keys are unknown: '
                         f'{_list(unknown)}')
    return converted


def load_pretrained(backbone: nn.Module,
                    checkpoint: str,
                    prefix: Optional[str] = None) -> None:
    """Load pretrained weights into a :class:`BiFormer`, and say what happened.

    All weights of stem, downsampling and stages must be there and fit. A
    classifier's head is left over, and an output norm is taken only if the
    checkpoint has one of the same kind; both are named in the log.

    Args:
        backbone: The model to fill, a :class:`BiFormer`.
        checkpoint: Path or URL, released names or ours.
        prefix: Take only the keys that start so (such as 'backbone.' for a
            detector's checkpoint), without it.

    Raises:
        ValueError: Keys are foreign, missing or wrongly shaped; all are named.
    """
    weights = convert_state_dict(_read(checkpoint, prefix))
    expected = backbone.state_dict()
    left_over, fresh = _unpaired(weights, expected)
    taken = {n: t for n, t in weights.items() if n not in left_over}

    problems = {
        'unexpected': [n for n in taken if n not in expected],
        'missing': [n for n in expected if n not in taken and n not in fresh],
        'of another shape': [
            f'{n} {tuple(t.shape)}, not {tuple(expected[n].shape)}'
            for n, t in taken.items()
            if n in expected and t.shape != expected[n].shape
        ]
    }
    if any(problems.values()):
        found = '; '.join(f'{what}: {_list(names)}'
                          for what, names in problems.items() if names)
        raise ValueError(
            f'{checkpoint} does not fit this BiFormer, check arch and '
            f'in_channels: {found}')
    backbone.load_state_dict({**expected, **taken})
    print_log(
        f'BiFormer: {len(taken)} tensors from {checkpoint}; left over: '
        f'{_list(left_over) or "none"}; kept as initialised: '
        f'{_list(fresh) or "none"}',
        logger='current')


def _read(checkpoint: str, prefix: Optional[str]) -> Dict[str, Tensor]:
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    if not prefix:
        return loaded
    part = {
        name[len(prefix):]: tensor
        for name, tensor in loaded.get('state_dict', loaded).items()
        if name.startswith(prefix)
    }
    if not part:
        raise ValueError(f'no key of {checkpoint} starts with {prefix!r}')
    return part


def _unpaired(weights: Dict, expected: Dict) -> Tuple[List[str], List[str]]:
    """Names that may be on one side only: a head; output norms of which the
    other side has none or another kind, such as a batch norm."""
    left_over = [n for n in weights if n.startswith('head.')]
    fresh = []
    norms = {_norm_of(n) for n in (*weights, *expected)} - {None}
    for norm in sorted(norms):
        given = [n for n in weights if _norm_of(n) == norm]
        wanted = [n for n in expected if _norm_of(n) == norm]
        if set(given) != set(wanted):
            left_over += given
            fresh += wanted
    return left_over, fresh


def _rename(name: str, last_stage: int) -> str:
    for pattern, new in _RENAMES:
        match = pattern.fullmatch(name)
        if match:
            name = new(match) if callable(new) else match.expand(new)
    match = _LAST_NORM.fullmatch(name)
    return f'out_norms.{last_stage}.{match[1]}' if match else name


def _norm_of(name: str) -> Optional[str]:
    """'out_norms.3.weight' -> 'out_norms.3'; None for any other weight."""
    return name.rpartition('.')[0] if name.startswith('out_norms.') else None


def _list(names: List[str], most: int = 20) -> str:
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
