"""The architectures of BiFormer (paper table 2) as data, and the validation of others.

A stage has ``embed_dims`` channels and ``depths`` blocks. Its ``attention`` is bi-level routing to
``topks`` regions (full attention with local context enhancement if that is None), or another one.
"""

from typing import Any, Dict, Optional, Sequence, Tuple, Union

from biformer_mm.ops.validation import (
    check_bool,
    check_choice,
    check_int,
    check_multiple,
    check_number,
)

from ..layers import ATTENTIONS, ROUTING
from ..layers.basic import conv_downsample, conv_stem, patch_downsample, patch_stem

STEMS = {'conv': (conv_stem, conv_downsample), 'patch': (patch_stem, patch_downsample)}
# Shared by the paper's own architectures. 'stl' is the layout of Swin-T.
_CONV = dict(
    attention=ROUTING, topks=(1, 4, 16, None), mlp_ratio=3, head_dim=32, stem='conv', pos_conv=True
)
ARCHS = {
    'tiny': dict(_CONV, embed_dims=(64, 128, 256, 512), depths=(2, 2, 8, 2)),
    'small': dict(_CONV, embed_dims=(64, 128, 256, 512), depths=(4, 4, 18, 4)),
    'base': dict(_CONV, embed_dims=(96, 192, 384, 768), depths=(4, 4, 18, 4)),
    'stl': dict(
        _CONV,
        embed_dims=(96, 192, 384, 768),
        depths=(2, 2, 6, 2),
        mlp_ratio=4,
        stem='patch',
        pos_conv=False,
    ),
}


def parse_arch(arch: Union[str, Dict], topks: Optional[Sequence[Optional[int]]] = None) -> Dict:
    """Look up or complete an architecture, and validate it.

    Args:
        arch: A name in :data:`ARCHS`; a dict with the keys of its entries, of which 'attention'
            may be left out; or a dict with the key 'base', such a name, and the keys to change.
        topks: Replaces the ``topks`` of the architecture.

    Returns:
        A dict with the keys of :data:`ARCHS`'s entries. The values per stage are tuples, of
        integers or, for ``attention``, of names and options.

    Raises:
        ValueError: A name, key or value is wrong; the message says which.
    """
    if isinstance(arch, str) and arch in ARCHS:
        arch = ARCHS[arch]
    if not isinstance(arch, dict):
        raise ValueError(f'arch must be one of {tuple(ARCHS)} or a dict; got {arch!r}')
    if 'base' in arch:
        changes = dict(arch)
        base = changes.pop('base')
        if base not in tuple(ARCHS):
            raise ValueError(
                f'arch must be one of {tuple(ARCHS)}, or a dict with one as its base; got {base!r}'
            )
        arch = dict(ARCHS[base], **changes)
    arch = {'attention': ROUTING, **arch}
    keys = set(ARCHS['small'])
    missing, unknown = keys - set(arch), set(arch) - keys
    if missing or unknown:
        raise ValueError(
            f'an arch dict must have exactly the keys {sorted(keys)}; '
            f'missing: {sorted(missing)}, unknown: {sorted(unknown)}'
        )
    check_choice("arch['stem']", arch['stem'], STEMS)
    check_bool("arch['pos_conv']", arch['pos_conv'])
    if check_number("arch['mlp_ratio']", arch['mlp_ratio']) <= 0:
        raise ValueError(f"arch['mlp_ratio'] must be above 0; got {arch['mlp_ratio']}")
    num_stages = len(check_sequence('depths', arch['depths']))
    # The first layer of the 'conv' stem has half of the channels.
    min_channels = 2 if arch['stem'] == 'conv' else 1
    arch = dict(
        arch,
        head_dim=check_int("arch['head_dim']", arch['head_dim'], 1),
        depths=tuple(check_int('depths', x, 1) for x in arch['depths']),
        embed_dims=tuple(
            check_int('embed_dims', x, min_channels)
            for x in check_per_stage('embed_dims', arch['embed_dims'], num_stages)
        ),
        topks=tuple(
            x if x is None else check_int('topks', x)
            for x in check_per_stage('topks', arch['topks'] if topks is None else topks, num_stages)
        ),
        attention=parse_attention(arch['attention'], num_stages),
    )
    _check_widths(arch)
    return arch


def _check_widths(arch: Dict) -> None:
    for channels, topk, (name, _) in zip(arch['embed_dims'], arch['topks'], arch['attention']):
        if topk is not None or name != ROUTING:
            check_multiple('embed_dims', channels, 'head_dim', arch['head_dim'])
        if int(channels * arch['mlp_ratio']) < 1:
            raise ValueError(
                "arch['mlp_ratio'] must leave the MLP a channel; got "
                f'{arch["mlp_ratio"]} with {channels} channels'
            )


def parse_attention(attention: Any, num_stages: int) -> Tuple[Tuple[str, Dict], ...]:
    """Validate the attention, and return a name and options per stage.

    Args:
        attention: A name; a dict with a name as ``type`` and options of the layer; or a sequence
            of these, one per stage.
        num_stages: Number of stages.

    Raises:
        ValueError: A name is unknown, or the sequence has another length.
    """
    if isinstance(attention, (str, dict)):
        attention = (attention,) * num_stages
    found = []
    for given in check_per_stage("arch['attention']", attention, num_stages):
        options = dict(given) if isinstance(given, dict) else dict(type=given)
        name = options.pop('type', None)
        check_choice("arch['attention']", name, (ROUTING, *ATTENTIONS))
        if name == ROUTING and options:
            raise ValueError(
                f'the options of {ROUTING!r} are num_regions, topks, padding and attn_backend of '
                f'BiFormer; got {options} in arch'
            )
        found.append((name, options))
    return tuple(found)


def parse_num_regions(num_regions: Any, num_stages: int) -> Tuple[Union[int, str], ...]:
    """Validate the regions per side, S, and return them per stage.

    Args:
        num_regions: An integer or 'auto' for all stages, or a sequence of these, one per stage.
        num_stages: Number of stages.

    Raises:
        ValueError: A value is wrong, or the sequence has another length.
    """
    if not isinstance(num_regions, (list, tuple, range)):
        num_regions = (num_regions,) * num_stages
    found = tuple(
        s if isinstance(s, str) else check_int('num_regions', s)
        for s in check_per_stage('num_regions', num_regions, num_stages)
    )
    if any(s != 'auto' if isinstance(s, str) else s < 1 for s in found):
        raise ValueError(f"num_regions must be integers of at least 1, or 'auto'; got {found}")
    return found


def parse_outputs(
    out_indices: Sequence[int], out_norm: Optional[str], num_stages: int
) -> Tuple[int, ...]:
    """Validate the stages whose maps are returned, and return them.

    Raises:
        ValueError: The stages do not ascend or do not exist, or ``out_norm`` is unknown or does
            not fit them.
    """
    found = tuple(check_int('out_indices', i) for i in check_sequence('out_indices', out_indices))
    if (
        not found
        or list(found) != sorted(set(found))
        or not (found[0] >= 0 and found[-1] < num_stages)
    ):
        raise ValueError(
            f'out_indices must be ascending stages between 0 and {num_stages - 1}; got {found}'
        )
    if out_norm not in ('LN', 'BN', None):
        raise ValueError(f"out_norm must be 'LN', 'BN' or None; got {out_norm!r}")
    if out_norm == 'BN' and found[-1] != num_stages - 1:
        raise ValueError(
            "out_norm='BN' belongs to the last stage's map, so "
            f'out_indices must end in {num_stages - 1}; '
            f'got {found}'
        )
    return found


def check_per_stage(name: str, values: Any, num_stages: int) -> Sequence:
    """Validate a list or tuple with one entry per stage.

    Raises:
        ValueError: The argument is something else.
    """
    if len(check_sequence(name, values)) != num_stages:
        raise ValueError(f'{name} must have one entry per stage, {num_stages}; got {tuple(values)}')
    return values


def check_sequence(name: str, values: Any) -> Sequence:
    """Validate a list or tuple.

    Raises:
        ValueError: The argument is something else.
    """
    if not isinstance(values, (list, tuple, range)):
        raise ValueError(f'{name} must be a list or tuple; got {values!r}')
    return values
