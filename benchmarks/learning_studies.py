"""What each study of learning.py trains: networks by name, the first being the yardstick.

Pictures of 64 x 64 pixels make maps of 16, 8, 4 and 2 tokens a side, where 224 make 56, 28, 14
and 7. Windows of 7, and k of S = 7, would cover most of these maps, so that all attentions were
alike: they are scaled so that a query attends to some 16 tokens.
"""

from typing import Any, Dict, NamedTuple, Optional

from biformer_mm.models.layers import ATTENTIONS, ROUTING

STL = 'biformer_stl'
STUDIES = ('networks', 'attentions', 'routing', 'padding', 'weights', 'backends')


class Network(NamedTuple):
    """A config of examples/cifar10, and what differs from it.

    Attributes:
        config: Name of the file, without ending.
        options: Keys with dots, as ``--cfg-options`` takes them, and values.
        dtype: Replaces the ``--dtype`` of the call.
    """

    config: str
    options: Dict[str, Any] = {}
    dtype: Optional[str] = None


def networks_of(study: str, device: str) -> Dict[str, Network]:
    """Return the networks of a study; on a GPU, the study of backends has more."""
    if study == 'networks':
        names = ('swin_t', 'biformer_t', 'biformer_s', STL, 'convnext_t', 'resnet50')
        return {name: Network(name) for name in names}
    if study == 'backends':
        return _backends(device)
    variants = dict(attentions=_attentions, routing=_routing, padding=_padding, weights=_weights)
    return {name: Network(STL, options) for name, options in variants[study]().items()}


def _attentions() -> Dict[str, Dict]:
    # By stage where the layers' own defaults, which are of 224 pixels, also differ by stage.
    options: Dict[str, Any] = dict(
        shifted_window=dict(window_size=4),
        sliding_window=dict(window_size=3),  # odd; 5 would cover the third map
        spatially_separable=dict(window_size=4),
        block_grid=dict(window_size=4),
        cross_shaped_window=[dict(stripe=x) for x in (1, 1, 2, 2)],
        # Points of 4 x 4 tokens; the first stages' kernels reach one token beyond their stride.
        deformable=[
            dict(stride=stride, kernel_size=kernel, table_size=side)
            for stride, kernel, side in ((4, 5, 16), (2, 3, 8), (1, 3, 4), (1, 3, 2))
        ],
        # From maps of 4 x 4 tokens, a quarter of which is followed.
        quadtree=[dict(num_levels=x, topk=4) for x in (3, 2, 1, 1)],
    )
    # As in Swin, positions do not decay.
    decay = {key: dict(decay_mult=0.0) for key in ('.table', '.of_rows', '.of_columns')}
    found: Dict[str, Dict] = {ROUTING: {}}
    for name in ATTENTIONS:
        given = options.get(name, {})
        of_stages = given if isinstance(given, list) else [given] * 4
        attention = [dict(x, type=name) for x in of_stages]
        found[name] = {
            'model.backbone.num_regions': None,
            'model.backbone.topks': None,
            'model.backbone.arch': dict(_delete_=True, base='stl', attention=attention),
            'optim_wrapper.paramwise_cfg': dict(custom_keys=decay),
        }
    return found


def _routing() -> Dict[str, Dict]:
    """Table 7 of the paper in small."""
    rows = [
        (4, (1, 4, 8, None)),
        (4, (1, 2, 4, None)),  # fewer
        (4, (2, 8, 16, None)),  # twice as many; all in stage 3
        ((8, 4, 2, 1), (2, 2, 2, 1)),  # regions of one size: 2 x 2 tokens
    ]
    return {
        f'S {_text(regions)}, k {_text(topks)}': {
            'model.backbone.num_regions': regions,
            'model.backbone.topks': topks,
        }
        for regions, topks in rows
    }


def _text(values: Any) -> str:
    values = values if isinstance(values, tuple) else (values,)
    return '-'.join('all' if x is None else str(x) for x in values)


def _padding() -> Dict[str, Dict]:
    # S = 3 divides none of the maps: 16, 8 and 4 tokens a side become 18, 9 and 6.
    return {
        padding: {
            'model.backbone.num_regions': 3,
            'model.backbone.topks': (1, 2, 4, None),
            'model.backbone.padding': padding,
        }
        for padding in ('legacy', 'masked')
    }


def _weights() -> Dict[str, Dict]:
    # The second as mmpretrain's Swin has it: bounds of -2 and 2 are 100 deviations.
    outliers = [
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ]
    return {'normal': {}, 'trunc_normal': {'model.init_cfg': outliers}}


def _backends(device: str) -> Dict[str, Network]:
    on_gpu = device == 'cuda'
    # On a GPU the CPU's fast path cannot run, and without one Triton's kernels are interpreted.
    names = ('reference', 'sdpa', 'triton' if on_gpu else 'cpu')
    return {
        f'{name}, {dtype}': Network(STL, {'model.backbone.attn_backend': name}, dtype)
        for dtype in (('fp32', 'bf16', 'fp16') if on_gpu else ('fp32',))
        for name in names
    }
