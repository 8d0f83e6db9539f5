"""BiFormer as an OpenMMLab backbone (paper section 3.4).

Shapes: N batch, H x W map, C channels, S regions per side, k routed regions.
"""

from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from biformer_mm.ops.tracing import is_symbolic
from biformer_mm.ops.validation import check_bool, check_choice, check_int, check_number
from biformer_mm.utils.config_types import is_pretrained

from ..compiling import compile_each
from ..layers import ROUTING, build_attention
from ..layers.attention import PADDINGS, BiLevelRoutingAttention, FullAttention
from ..layers.basic import MLP, DepthwiseConv, DropPath, LayerNorm, add_conv, add_norm, build_norm
from ..mmengine_compat import BaseModule, print_log, register
from .arch import ARCHS, STEMS, parse_arch, parse_num_regions, parse_outputs

LN_EPS = 1e-6
MIN_SIDE = 32  # of images, in pixels: the stride of the last stage


class BiFormerBlock(nn.Module):
    """Position convolution, attention and MLP, each with a residual connection.

    Args:
        channels: Channels, C.
        attn: Attention, NHWC in and out.
        mlp_ratio: Hidden channels of the MLP, as a multiple of C.
        pos_conv: Whether to use the 3x3 depth-wise position convolution.
        drop_path_rate: Stochastic-depth rate of attention and MLP.
    """

    def __init__(
        self,
        channels: int,
        attn: nn.Module,
        mlp_ratio: float,
        pos_conv: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.pos_conv = DepthwiseConv(channels, 3) if pos_conv else None
        self.norm1 = LayerNorm(channels, eps=LN_EPS)
        self.attn = attn
        self.norm2 = LayerNorm(channels, eps=LN_EPS)
        self.mlp = MLP(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (N, H, W, C) -> (N, H, W, C)."""
        if self.pos_conv is not None:
            x = add_conv(self.pos_conv, x, added=x)
        attended = self.drop_path(self.attn(self.norm1(x)))
        x, normed = add_norm(self.norm2, x, attended)
        return x + self.drop_path(self.mlp(normed))


class Stage(nn.Sequential):
    """The blocks of a stage, with an NCHW map in and out as feature extractors expect it."""

    def forward(self, x: Tensor, with_cp: bool = False, compiled: bool = False) -> Tensor:
        """Apply the blocks.

        Args:
            x: (N, C, H, W).
            with_cp: Recompute the activations of blocks in the backward pass.
            compiled: Whether the blocks are compiled.

        Returns:
            (N, C, H, W).
        """
        x = x.permute(0, 2, 3, 1).contiguous()
        if compiled:  # a view as input would need another graph
            x = torch.ops.aten._unsafe_view(x, x.shape)
        with_cp = with_cp and torch.is_grad_enabled() and not is_symbolic(x)
        for block in self:
            x = checkpoint(block, x, use_reentrant=False) if with_cp else block(x)
        return x.permute(0, 3, 1, 2)


@register
class BiFormer(BaseModule):
    """BiFormer for classification, detection and segmentation.

    Args:
        arch: 'tiny', 'small', 'base' or 'stl' (the layout of Swin-T); a dict with the keys of
            :attr:`arch_zoo`'s entries; or a dict with the key 'base', one of these names, and the
            keys to change. The keys are ``embed_dims``, ``depths`` and ``topks`` (one entry per
            stage; None in ``topks`` is full attention), ``mlp_ratio``, ``head_dim``, ``stem``
            ('conv' or 'patch', for stem and downsampling), ``pos_conv`` and ``attention``: a name
            in :data:`biformer_mm.models.layers.ATTENTIONS` or 'bi_level_routing', a dict with the
            name as ``type`` and options of the layer, or one of these per stage.
        num_regions: Regions per side, S, for all stages or one per stage; None is 7. The paper
            uses 7 for classification, 8 for segmentation and 16 for detection. 'auto' chooses S
            for each map, near the optimum of equation 9, so the cost grows as (H*W)**(4/3).
            Weights do not depend on it.
        topks: Replaces the ``topks`` of ``arch``.
        padding: 'legacy' or 'masked'; see :class:`BiLevelRoutingAttention`.
        in_channels: Channels of the image.
        out_indices: Stages whose maps are returned, 0 to 3. Stages after the last of these are
            not built; a checkpoint may contain them.
        out_norm: 'LN' for a LayerNorm on each returned map (dense prediction), 'BN' for a batch
            norm on the last map (classification), or None.
        drop_path_rate: Stochastic-depth rate of the last block. It rises linearly from 0 over all
            blocks of ``arch``, whether built or not.
        norm_cfg: Norm layers of stem and downsampling, and of ``out_norm`` 'BN'. The type is 'BN'
            or 'SyncBN'.
        norm_eval: Use the running statistics of batch norms in training, too.
        frozen_stages: 0 freezes the stem; n freezes the stem and the first n stages with their
            downsampling; -1 freezes nothing. Output norms are never frozen, because ImageNet
            weights do not include them.
        with_cp: Recompute the activations of blocks in the backward pass to save memory.
        attn_backend: Backend of :func:`biformer_mm.ops.region_attention`.
        init_cfg: MMEngine's initialisation config. Type 'Pretrained' reads the authors' released
            checkpoints and ours; see :func:`biformer_mm.checkpoint.load_pretrained`.

    Raises:
        ValueError: An argument breaks a rule above; the message names it.
    """

    arch_zoo = ARCHS
    _blocks_compiled = False

    def __init__(
        self,
        arch: Union[str, Dict] = 'small',
        num_regions: Union[int, str, Sequence[Union[int, str]], None] = None,
        topks: Optional[Sequence[Optional[int]]] = None,
        padding: str = 'legacy',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: Optional[str] = 'LN',
        drop_path_rate: float = 0.0,
        norm_cfg: Dict = dict(type='BN'),  # noqa: B006 - never changed
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Optional[Dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(init_cfg, (dict, type(None))):
            raise ValueError(f'init_cfg must be one dict or None; got {init_cfg}')
        arch = parse_arch(arch, topks)
        dims, depths = arch['embed_dims'], arch['depths']
        num_stages = len(depths)
        if all(name != ROUTING for name, _ in arch['attention']):
            _refuse_options_of_routing(
                num_regions=num_regions is not None,
                topks=topks is not None,
                padding=padding != 'legacy',
                attn_backend=attn_backend != 'auto',
            )
        num_regions = parse_num_regions(7 if num_regions is None else num_regions, num_stages)
        out_indices = parse_outputs(out_indices, out_norm, num_stages)
        in_channels = check_int('in_channels', in_channels, 1)
        frozen_stages = check_int('frozen_stages', frozen_stages)
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f'frozen_stages must be between -1 (none) and {num_stages}; got {frozen_stages}'
            )
        if not 0 <= check_number('drop_path_rate', drop_path_rate) < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1); got {drop_path_rate}')
        check_choice('padding', padding, PADDINGS)
        check_bool('norm_eval', norm_eval)
        check_bool('with_cp', with_cp)

        self.in_channels = in_channels
        self.out_indices = out_indices
        self._num_stages = num_stages
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        make_stem, make_downsample = STEMS[arch['stem']]
        last = out_indices[-1]
        self.stem = make_stem(in_channels, dims[0], norm_cfg)
        self.downsamples = nn.ModuleList(
            make_downsample(before, after, norm_cfg)
            for before, after in zip(dims[:last], dims[1 : last + 1])
        )

        # On the CPU, because the values are needed even if the default device is 'meta'.
        drop_rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())

        def make_block(stage: int, index: int) -> BiFormerBlock:
            channels, topk = dims[stage], arch['topks'][stage]
            name, options = arch['attention'][stage]
            attn: nn.Module
            if name != ROUTING:
                attn = build_attention(
                    name, channels, channels // arch['head_dim'], stage, index, options
                )
            elif topk is None:
                attn = FullAttention(channels, attn_backend=attn_backend)
            else:
                attn = BiLevelRoutingAttention(
                    channels,
                    channels // arch['head_dim'],
                    num_regions[stage],
                    topk,
                    padding,
                    attn_backend,
                )
            return BiFormerBlock(
                channels, attn, arch['mlp_ratio'], arch['pos_conv'], next(drop_rates)
            )

        self.stages = nn.ModuleList(
            Stage(*(make_block(stage, index) for index in range(depth)))
            for stage, depth in enumerate(depths[: last + 1])
        )

        self.out_norms = nn.ModuleDict()
        if out_norm == 'LN':
            for i in self.out_indices:
                self.out_norms[str(i)] = nn.LayerNorm(dims[i], eps=LN_EPS)
        elif out_norm == 'BN':
            self.out_norms[str(num_stages - 1)] = build_norm(norm_cfg, dims[-1])

        self.apply(init_linear)
        self._freeze()

    def init_weights(self) -> None:
        """Initialise as given by ``init_cfg``; see MMEngine's ``BaseModule``.

        Raises:
            ValueError: A pretrained checkpoint does not fit; see
                :func:`biformer_mm.checkpoint.load_pretrained`.
        """
        if not is_pretrained(self.init_cfg):
            super().init_weights()
            return
        from biformer_mm.checkpoint import load_pretrained  # needs MMEngine

        options = {k: v for k, v in self.init_cfg.items() if k != 'type'}
        load_pretrained(self, **options)
        self.is_init = True

    def unbuilt_weights(self, names: Iterable[str], prefix: str = '') -> List[str]:
        """Return the names of weights that belong to stages after the last output.

        Args:
            names: Names in a state dict.
            prefix: What the names of this backbone's weights begin with, such as 'backbone.'.
        """
        parts = tuple(
            f'{prefix}{part}.'
            for i in range(len(self.stages), self._num_stages)
            for part in (f'downsamples.{i - 1}', f'stages.{i}', f'out_norms.{i}')
        )
        return [name for name in names if name.startswith(parts)]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Return the depth of a parameter, for layer-wise decay of learning rates.

        The stem has depth 0; each block, with the downsampling after it, has the next; output
        norms, and what does not belong to this backbone, have the last.

        Args:
            param_name: Name of the parameter in the model.
            prefix: What the names of this backbone's parameters begin with, such as 'backbone.'.

        Returns:
            The depth, and the number of depths.
        """
        depths = [len(list(stage.children())) for stage in self.stages]
        number = sum(depths) + 2
        part, *indices = param_name[len(prefix) :].split('.')
        if param_name.startswith(prefix):
            if part == 'stem':
                return 0, number
            if part == 'downsamples':
                return sum(depths[: int(indices[0]) + 1]), number
            if part == 'stages':
                return sum(depths[: int(indices[0])]) + int(indices[1]) + 1, number
        return number - 1, number

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps of the stages in ``out_indices``.

        Args:
            x: Images, (N, ``in_channels``, H, W), at least 32 x 32 pixels.

        Returns:
            One map (N, C_i, H_i, W_i) per stage in ``out_indices``, in the memory format of
            ``x``. H_i is H divided by the stride of the stage, 4, 8, 16 or 32, rounded up ('conv'
            stem) or down ('patch' stem).

        Raises:
            ValueError: ``x`` is not a floating-point tensor, has another number of dimensions or
                channels, or is too small. PyTorch raises it if a batch norm in training has only
                one value per channel (one image and a last map of 1 x 1), or if 'SyncBN' trains
                on a CPU.
            RuntimeError: PyTorch raises it if ``x`` has another dtype or device than the weights.
        """
        memory_format = torch.contiguous_format
        if not isinstance(x, fx.Proxy):  # which stands for any images
            self._check_images(x)
            if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
                memory_format = torch.channels_last
        outs = []
        for i in range(len(self.stages)):
            x = self._run_stage(i, x)
            if i in self.out_indices:
                out = self._normalize(i, x)
                outs.append(out.contiguous(memory_format=memory_format))
        return tuple(outs)

    def compile_blocks(self, **options: Any) -> None:
        """Compile each block separately, in place; equal blocks share a graph.

        Blocks are equal if they differ only in weights and stochastic-depth rate. Names in the
        state dict stay the same. See :func:`biformer_mm.models.compiling.compile_each`.

        Args:
            options: Options of :func:`torch.compile`.

        Raises:
            RuntimeError: PyTorch is older than 2.6.
        """
        blocks: List[Any] = [block for stage in self.stages for block in stage.children()]
        compile_each(blocks, **options)
        self._blocks_compiled = True
        if any(block.drop_path.rate for block in blocks):
            for block in blocks:
                block.drop_path.share_graph(block.norm1.weight.device)

    def train(self, mode: bool = True) -> 'BiFormer':
        """Set the mode, except for frozen stages and, with ``norm_eval``, batch norms."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _load_from_state_dict(
        self, state_dict: Dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Leave out the weights of stages that are not built, and log it in one line.

        PyTorch and MMEngine call this with a copy of the state dict, before they load the children.
        """
        unbuilt = self.unbuilt_weights(state_dict, prefix)
        for name in unbuilt:
            del state_dict[name]
        if unbuilt:
            start = prefix.count('.') + 2
            parts = sorted({'.'.join(name.split('.')[:start]) for name in unbuilt})
            print_log(
                f'BiFormer: left out {", ".join(parts)} ({len(unbuilt)} tensors); '
                f'out_indices={self.out_indices} needs no later stages',
                logger='current',
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [
            self.stem,
            *self.downsamples[: max(self.frozen_stages - 1, 0)],
            *self.stages[: self.frozen_stages],
        ]
        for module in frozen:
            module.eval().requires_grad_(False)

    def _check_images(self, x: Tensor) -> None:
        """Raise a ValueError unless ``x`` fits; see :meth:`forward`."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(
                f'the input must be a floating-point tensor; got {getattr(x, "dtype", type(x))}'
            )
        if x.dim() != 4 or x.shape[1] != self.in_channels or (min(x.shape[2:]) < MIN_SIDE):
            raise ValueError(
                f'the input must be (N, {self.in_channels}, H, W) with H and '
                f'W at least {MIN_SIDE}; got {tuple(x.shape)}'
            )

    def _run_stage(self, stage: int, x: Tensor) -> Tensor:
        """Run a stage on the previous stage's map, or on images; NCHW in and out."""
        x = self.downsamples[stage - 1](x) if stage > 0 else self.stem(x)
        return self.stages[stage](x, self.with_cp, self._blocks_compiled)

    def _normalize(self, stage: int, x: Tensor) -> Tensor:
        """Apply the output norm of a stage, if there is one, to its NCHW map."""
        if str(stage) not in self.out_norms:
            return x
        norm = self.out_norms[str(stage)]
        if isinstance(norm, nn.LayerNorm):
            return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return norm(x)


def _refuse_options_of_routing(**given: bool) -> None:
    """Refuse arguments that a network without bi-level routing would ignore.

    Args:
        given: By name, whether the argument differs from its default.

    Raises:
        ValueError: One does.
    """
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise ValueError(
            f'{", ".join(names)} belong to the attention {ROUTING!r}, which no stage of this arch '
            "has; leave them out, or give the layer's own options in arch['attention']"
        )


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer as in BiFormer; leave other modules unchanged.

    The authors truncate the normal distribution at 100 standard deviations, which has no effect.
    PyTorch's trunc_normal_ would then set a few weights to 2.0, because its inverse error function
    becomes infinite in float32 (pytorch #155588).
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
