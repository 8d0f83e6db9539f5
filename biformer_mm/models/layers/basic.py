"""The basic layers of the backbone: norms, stems, convolutions, MLP, stochastic depth."""

from typing import TYPE_CHECKING, Dict, Optional, Tuple, Type, TypeVar, Union

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.grad import conv2d_weight

from biformer_mm.ops import fused
from biformer_mm.ops.region import crop
from biformer_mm.ops.tracing import is_symbolic
from biformer_mm.ops.validation import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

Layer = TypeVar('Layer', bound=nn.Module)
_NORMS = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}
_NORM_OPTIONS = ('eps', 'momentum', 'affine', 'track_running_stats')


def build_norm(norm_cfg: Dict, channels: int) -> nn.Module:
    """Build a norm layer for NCHW maps from an OpenMMLab ``norm_cfg``.

    Args:
        norm_cfg: ``type``, 'BN' or 'SyncBN'; ``requires_grad``, whether to train the weights
            (default True); and arguments of the layer: ``eps``, ``momentum``, ``affine`` and
            ``track_running_stats``.
        channels: Channels, C.

    Raises:
        ValueError: The type is missing, or a key or value is wrong.
    """
    if not isinstance(norm_cfg, dict):
        raise ValueError(f'norm_cfg must be a dict; got {norm_cfg!r}')
    cfg = dict(norm_cfg)
    kind = cfg.pop('type', None)
    check_choice('norm_cfg type', kind, _NORMS)
    requires_grad = cfg.pop('requires_grad', True)
    check_bool('norm_cfg requires_grad', requires_grad)
    for key, value in cfg.items():
        if key not in _NORM_OPTIONS:
            raise ValueError(
                f'norm_cfg may have {_NORM_OPTIONS} beside type and requires_grad; got {key!r}'
            )
        if key in ('affine', 'track_running_stats'):
            check_bool(f'norm_cfg {key}', value)
        elif key == 'eps' and check_number('norm_cfg eps', value) <= 0:
            raise ValueError(f'norm_cfg eps must be above 0; got {value}')
        elif value is not None:  # momentum=None averages all batches
            check_number(f'norm_cfg {key}', value)
    return _NORMS[kind](channels, **cfg).requires_grad_(requires_grad)


def conv_stem(in_channels: int, channels: int, norm_cfg: Dict) -> nn.Module:
    """Build an overlapped patch embedding, stride 4."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1),
        build_norm(norm_cfg, channels // 2),
        nn.GELU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
        build_norm(norm_cfg, channels),
    )


def conv_downsample(in_channels: int, channels: int, norm_cfg: Dict) -> nn.Module:
    """Build an overlapped patch merging, stride 2."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride=2, padding=1), build_norm(norm_cfg, channels)
    )


def patch_stem(in_channels: int, channels: int, norm_cfg: Dict) -> nn.Module:
    """Build a plain patch embedding, stride 4, as in Swin."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 4, stride=4), build_norm(norm_cfg, channels)
    )


def patch_downsample(in_channels: int, channels: int, norm_cfg: Dict) -> nn.Module:
    """Build a plain patch merging, stride 2."""
    return nn.Sequential(
        build_norm(norm_cfg, in_channels), nn.Conv2d(in_channels, channels, 2, stride=2)
    )


def conv_nhwc(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply an NCHW layer to an NHWC map, without a copy if the map is dense."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def add_conv(conv: nn.Module, x: Tensor, added: Tensor) -> Tensor:
    """Add a :class:`DepthwiseConv` of a map to another map.

    Args:
        conv: The layer, or one that replaced it.
        x: (N, H', W', C).
        added: (N, H, W, C), not larger than ``x``.

    Returns:
        (N, H, W, C).
    """
    if (
        is_plain(conv, DepthwiseConv)
        and not is_symbolic(x)
        and fused.depthwise_reason(x, added) is None
    ):
        return fused.add_depthwise(x, conv.weight, conv.bias, added)
    height, width = added.shape[1:3]
    return added + crop(conv_nhwc(conv, x), height, width)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis; on GPUs in the dtype of its input, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: (..., C) -> (..., C)."""
        if not is_symbolic(x) and fused.norm_reason(x) is None:
            return fused.layer_norm(x, self.weight, self.bias, self.eps)
        return super().forward(x)


def add_norm(norm: nn.Module, x: Tensor, added: Tensor) -> Tuple[Tensor, Tensor]:
    """Return the sum of two maps, and a :class:`LayerNorm` of it, (..., C) each."""
    if is_plain(norm, LayerNorm) and not is_symbolic(x) and fused.norm_reason(x, added) is None:
        return fused.add_layer_norm(x, added, norm.weight, norm.bias, norm.eps)
    x = x + added
    return x, norm(x)


class DepthwiseConv(nn.Conv2d):
    """Depth-wise convolution that keeps the map's size and trains fast on CPUs.

    Args:
        channels: Channels, C.
        kernel_size: Height and width of the kernel, K, odd.
    """

    bias: Tensor  # never None, unlike nn.Conv2d's

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (N, C, H, W) -> (N, C, H, W)."""
        if _takes_functions(x) and x.device.type == 'cpu':
            return _DepthwiseConv.apply(x, self.weight, self.bias)
        return super().forward(x)


def _takes_functions(x: Tensor) -> bool:
    """Return whether to use our autograd functions: in training, and in no recorded graph."""
    return torch.is_grad_enabled() and not torch.jit.is_tracing() and not is_symbolic(x)


class _DepthwiseConv(torch.autograd.Function):
    """Depth-wise convolution whose weight gradient is computed three columns at a time.

    oneDNN's weight gradient takes ten times as long for kernels of more than three columns.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx, dout: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        channels, _, size, _ = weight.shape
        same = size // 2
        # Under autocast the gradient is in half precision, but x may not be.
        need = ctx.needs_input_grad
        dx = dweight = dbias = None
        if need[0]:
            flipped = weight.flip(2, 3).to(dout.dtype)
            dx = F.conv2d(dout, flipped, padding=same, groups=channels)
            dx = dx.to(x.dtype)
        if need[1]:
            parts = []
            for first in range(0, size, 3):
                columns = min(3, size - first)
                # The part of x that these columns of the kernel meet.
                seen = F.pad(x.to(dout.dtype), (same - first, first + columns - 1 - same))
                parts.append(
                    conv2d_weight(
                        seen, (channels, 1, size, columns), dout, padding=(same, 0), groups=channels
                    )
                )
            # In the weight's layout, for which DDP has prepared its buckets.
            dweight = torch.empty_like(weight).copy_(torch.cat(parts, dim=-1))
        if need[2]:
            dbias = dout.sum(dim=(0, 2, 3)).to(weight.dtype)
        return dx, dweight, dbias


class MLP(nn.Module):
    """Linear layer, GELU, linear layer over the last axis.

    Args:
        channels: Channels in and out, C.
        hidden_channels: Channels between the layers.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP: (..., C) -> (..., C)."""
        hidden = self.fc1(x)
        if (
            _takes_functions(x)
            and is_plain(self.fc2, nn.Linear)
            and is_plain(self.act, nn.GELU)
            and self.act.approximate == 'none'
        ):
            return _GELULinear.apply(hidden, self.fc2.weight, self.fc2.bias)
        return self.fc2(self.act(hidden))


class _GELULinear(torch.autograd.Function):
    """GELU and a linear layer that keep only the input of GELU.

    The backward pass computes the output of GELU again. This saves a fifth of the memory of a
    block's activations.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx, dout: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dact = (dout @ weight.to(dout.dtype)).to(x.dtype)
            dx = torch.ops.aten.gelu_backward(dact, x)
        rows = dout.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            act = F.gelu(x).to(dout.dtype).flatten(0, -2)
            dweight = (rows.t() @ act).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            dbias = rows.sum(dim=0).to(weight.dtype)
        return dx, dweight, dbias


def is_plain(layer: nn.Module, kind: Type[Layer]) -> 'TypeGuard[Layer]':
    """Return whether a layer is of the given class, not replaced or wrapped, and has no hooks."""
    return type(layer) is kind and not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )


@fx.wrap  # one node of a graph, as the shape that it draws depends on the batch
def drop_samples(x: Tensor, keep: Union[float, Tensor]) -> Tensor:
    """Set random samples to zero and divide the others by the share that is kept.

    Args:
        x: (N, ...).
        keep: Probability to keep a sample, in (0, 1].

    Returns:
        (N, ...).
    """
    shape = (len(x),) + (1,) * (x.dim() - 1)
    if isinstance(keep, Tensor):
        drawn = torch.rand(shape, device=x.device)
        return x * ((drawn < keep) / keep).to(x.dtype)
    kept = torch.empty(shape, dtype=x.dtype, device=x.device)
    return x * kept.bernoulli_(keep).div_(keep)


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch per sample in training.

    Args:
        rate: Probability to drop, in [0, 1).
    """

    keep: Optional[Tensor]

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer('keep', None, persistent=False)

    def share_graph(self, device: torch.device) -> None:
        """Make layers of all rates, also 0, share a compiled graph.

        A float would be a constant of the graph, while a tensor is an input. After this the layer
        draws other random numbers.
        """
        self.keep = torch.tensor(1 - self.rate, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples in training: (N, ...) -> (N, ...)."""
        if not self.training or self.keep is None and self.rate == 0:
            return x
        return drop_samples(x, 1 - self.rate if self.keep is None else self.keep)

    def extra_repr(self) -> str:
        """Return the rate, for ``print``."""
        return f'rate={self.rate:.3f}'
