"""BiFormer in timm: import this module to make ``timm.create_model`` accept its names.

It needs timm 1.0 or later, but not OpenMMLab.
"""

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import torch
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.models import BiFormer
from biformer_mm.models.backbones.arch import ARCHS, parse_arch
from biformer_mm.models.backbones.biformer import init_linear
from biformer_mm.ops.validation import check_choice

FORMATS = ('NCHW', 'NHWC')
Indices = Union[int, Sequence[int], None]

default_cfgs = generate_default_cfgs(
    {
        f'biformer_{arch}': dict(
            min_input_size=(3, 32, 32), pool_size=(7, 7), first_conv='stem.0', classifier='head.fc'
        )
        for arch in ARCHS
    }
)


class BiFormerClassifier(BiFormer):
    """The backbone with a classifier and the methods that timm expects of a model.

    Args:
        arch: See :class:`biformer_mm.models.BiFormer`.
        in_chans: Channels of the image.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: Pooling, as timm names it; '' for none.
        drop_rate: Dropout rate before the classifier.
        options: More arguments of :class:`biformer_mm.models.BiFormer`, such as ``num_regions``
            and ``drop_path_rate``.
    """

    def __init__(
        self,
        arch: Union[str, Dict],
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        **options: Any,
    ) -> None:
        dims = parse_arch(arch)['embed_dims']
        super().__init__(
            arch, in_channels=in_chans, out_indices=(len(dims) - 1,), out_norm='BN', **options
        )
        self.feature_info = [
            dict(num_chs=channels, reduction=4 << i, module=f'stages.{i}')
            for i, channels in enumerate(dims)
        ]
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = dims[-1]
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate)
        self.head.apply(init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits: (N, C, H, W) -> (N, ``num_classes``)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last stage's map, normalised, (N, C, H, W)."""
        return super().forward(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute logits from the map, or with ``pre_logits`` the input of the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Union[List[Tensor], Tuple[Tensor, List[Tensor]]]:
        """Compute the maps of several stages, with timm's arguments.

        Args:
            x: Images, (N, C, H, W).
            indices: Stages. An integer n means the last n, None means all.
            norm: Apply the output norm to the last stage's map.
            stop_early: Stop after the last of these stages.
            output_fmt: 'NCHW' or 'NHWC': the layout of all maps.
            intermediates_only: Return only the stages' maps.

        Returns:
            The final map, normalised, and the list of the stages' maps; or only the list. Maps are
            (N, C, H, W), or (N, H, W, C) if ``output_fmt`` is 'NHWC'.

        Raises:
            ValueError: A stage does not exist, or ``output_fmt`` is another one.
        """
        check_choice('output_fmt', output_fmt, FORMATS)
        wanted = self._find_stages(indices)
        maps = []
        stages = range(max(wanted) + 1 if stop_early else len(self.stages))
        for i in stages:
            x = self._run_stage(i, x)
            normed = self._normalize(i, x)
            if i in wanted:
                maps.append(normed if norm else x)
        if output_fmt == 'NHWC':
            maps, normed = [x.permute(0, 2, 3, 1) for x in maps], normed.permute(0, 2, 3, 1)
        return maps if intermediates_only else (normed, maps)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Remove the parts that the maps of the given stages do not need.

        Returns:
            The stages, counted from the first.
        """
        wanted = self._find_stages(indices)
        last = max(wanted)
        if last < len(self.stages) - 1:
            self.out_indices = (last,)
            self.num_features = self.feature_info[last]['num_chs']
        self.stages = self.stages[: last + 1]
        self.downsamples = self.downsamples[:last]
        if prune_norm:
            self.out_norms = nn.ModuleDict()
        if prune_head:
            self.reset_classifier(0, '')
        return wanted

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifier by a new one; 0 classes for none."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass to save memory."""
        self.with_cp = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Return the names of weights without decay: those of attentions that have tables."""
        names = [name for name, _ in self.named_parameters()]
        return {name for name in names if name.rpartition('.')[2] not in ('weight', 'bias')}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict:
        """Return patterns that group weights by depth, for layer-wise learning rates."""
        if coarse:
            return dict(stem='stem', blocks=r'(?:stages|downsamples)\.(\d+)')
        return dict(
            stem='stem',
            blocks=[(r'stages\.(\d+)\.(\d+)', None), (r'downsamples\.(\d+)', (float('inf'),))],
        )

    def _find_stages(self, indices: Indices) -> List[int]:
        number = len(self.stages)
        if indices is None:
            indices = number
        if isinstance(indices, int):
            indices = range(number - indices, number)
        if not indices or not all(-number <= i < number for i in indices):
            raise ValueError(
                f'the model has the stages 0 to {number - 1}; asked for: {list(indices)}'
            )
        return sorted({i % number for i in indices})


def _read_weights(checkpoint: Dict) -> Dict[str, Tensor]:
    """Convert a checkpoint to our names, without the auxiliary head of token labelling."""
    weights = convert_state_dict(checkpoint)
    return {n: t for n, t in weights.items() if not n.startswith('aux_head.')}


def _create(arch: str, pretrained: bool, **options: Any) -> nn.Module:
    feature_cfg: Dict[str, Any] = dict(out_indices=(0, 1, 2, 3), feature_cls='getter')
    if options.get('features_only') and 'output_fmt' in options:
        output_fmt = feature_cfg['output_fmt'] = options.pop('output_fmt')
        feature_cls = options.get('feature_cls', 'getter')
        if output_fmt != 'NCHW' and feature_cls != 'getter':
            raise ValueError(
                f"output_fmt must be 'NCHW' with {feature_cls=}, for which timm takes maps as they "
                f"are; use feature_cls='getter', or permute the maps; got {output_fmt!r}"
            )
    return build_model_with_cfg(
        BiFormerClassifier,
        f'biformer_{arch}',
        pretrained,
        pretrained_filter_fn=_read_weights,
        feature_cfg=feature_cfg,
        arch=arch,
        **options,
    )


@register_model
def biformer_tiny(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build BiFormer-T; ``options`` are those of :class:`BiFormerClassifier`."""
    return _create('tiny', pretrained, **options)


@register_model
def biformer_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build BiFormer-S; ``options`` are those of :class:`BiFormerClassifier`."""
    return _create('small', pretrained, **options)


@register_model
def biformer_base(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build BiFormer-B; ``options`` are those of :class:`BiFormerClassifier`."""
    return _create('base', pretrained, **options)


@register_model
def biformer_stl(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build BiFormer-STL; ``options`` are those of :class:`BiFormerClassifier`."""
    return _create('stl', pretrained, **options)
