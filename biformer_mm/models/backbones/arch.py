"""BiFormer's architectures as data (paper table 2), and the rules for others.

A stage has 'embed_dims' channels and 'depths' blocks, and routes to 'topks'
regions, or attends fully where that is None.
"""

from typing import Any, Dict, Optional, Sequence, Tuple, Union

from biformer_mm.ops.validation import flag, number, whole

from ..layers.basic import conv_downsample, conv_stem, patch_downsample, patch_stem

STEMS = {'conv': (conv_stem, conv_downsample), 'patch': (patch_stem, patch_downsample)}
# What the paper's own architectures share; Swin-T's layout departs from it.
_CONV = dict(topks=(1, 4, 16, None), mlp_ratio=3, head_dim=32, stem='conv', pos_conv=True)
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
    """Return the architecture of a name in :data:`ARCHS`, or of a dict.

    Args:
        arch: The name; a dict with the same keys; or one with the key 'base',
            a name, and the keys in which it differs.
        topks: Replaces the architecture's.

    Returns:
        A dict with the same keys, numbers of stages as tuples of integers.

    Raises:
        ValueError: A name, a key or a value breaks a rule; the message says
            which.
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
    keys = set(ARCHS['small'])
    missing, unknown = keys - set(arch), set(arch) - keys
    if missing or unknown:
        raise ValueError(
            f'an arch dict must have exactly the keys {sorted(keys)}; '
            f'missing: {sorted(missing)}, unknown: {sorted(unknown)}'
        )
    if arch['stem'] not in tuple(STEMS):
        raise ValueError(f"arch['stem'] must be one of {tuple(STEMS)}; got {arch['stem']!r}")
    flag("arch['pos_conv']", arch['pos_conv'])
    if number("arch['mlp_ratio']", arch['mlp_ratio']) <= 0:
        raise ValueError(f"arch['mlp_ratio'] must be above 0; got {arch['mlp_ratio']}")
    num_stages = len(sequence('depths', arch['depths']))
    least = 2 if arch['stem'] == 'conv' else 1  # its first layer has half
    arch = dict(
        arch,
        head_dim=whole("arch['head_dim']", arch['head_dim'], 1),
        depths=tuple(whole('depths', x, 1) for x in arch['depths']),
        embed_dims=tuple(
            whole('embed_dims', x, least)
            for x in per_stage('embed_dims', arch['embed_dims'], num_stages)
        ),
        topks=tuple(
            x if x is None else whole('topks', x)
            for x in per_stage('topks', arch['topks'] if topks is None else topks, num_stages)
        ),
    )
    _check_widths(arch)
    return arch


def _check_widths(arch: Dict) -> None:
    for channels, topk in zip(arch['embed_dims'], arch['topks']):
        if topk is not None and channels % arch['head_dim']:
            raise ValueError(
                'embed_dims must be multiples of head_dim; got '
                f'{channels} with head_dim={arch["head_dim"]}'
            )
        if int(channels * arch['mlp_ratio']) < 1:
            raise ValueError(
                "arch['mlp_ratio'] must leave the MLP a channel; got "
                f'{arch["mlp_ratio"]} with {channels} channels'
            )


def parse_num_regions(num_regions: Any, num_stages: int) -> Tuple[Union[int, str], ...]:
    """S of each stage, an integer or 'auto', from one for all or a sequence.

    Raises:
        ValueError: It is something else, or of another number of stages.
    """
    if not isinstance(num_regions, (list, tuple, range)):
        num_regions = (num_regions,) * num_stages
    found = tuple(
        s if isinstance(s, str) else whole('num_regions', s)
        for s in per_stage('num_regions', num_regions, num_stages)
    )
    if any(s != 'auto' if isinstance(s, str) else s < 1 for s in found):
        raise ValueError(f"num_regions must be integers of at least 1, or 'auto'; got {found}")
    return found


def parse_outputs(
    out_indices: Sequence[int], out_norm: Optional[str], num_stages: int
) -> Tuple[int, ...]:
    """The stages whose maps are returned.

    Raises:
        ValueError: They are not ascending stages, or ``out_norm`` is unknown
            or does not belong to them.
    """
    found = tuple(whole('out_indices', i) for i in sequence('out_indices', out_indices))
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


def per_stage(name: str, values: Any, num_stages: int) -> Sequence:
    """An argument that must be a list or tuple with an entry per stage.

    Raises:
        ValueError: It is something else.
    """
    if len(sequence(name, values)) != num_stages:
        raise ValueError(f'{name} must have one entry per stage, {num_stages}; got {tuple(values)}')
    return values


def sequence(name: str, values: Any) -> Sequence:
    """An argument that must be a list or tuple.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(values, (list, tuple, range)):
        raise ValueError(f'{name} must be a list or tuple; got {values!r}')
    return values
