"""Stems, downsampling, MLP and stochastic depth."""
from typing import Dict

import torch
from torch import Tensor, nn

_NORMS = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}


def build_norm(norm_cfg: Dict, channels: int) -> nn.Module:
    """Build a normalisation of NCHW maps from an OpenMMLab ``norm_cfg``.

    Args:
        norm_cfg: ``type``, 'BN' or 'SyncBN'; ``requires_grad``, whether its
            weights are trained (default True); other keys go to the layer.
        channels: Channels, C.

    Raises:
        ValueError: The type is missing or unknown.
    """
    cfg = dict(norm_cfg)
    kind = cfg.pop('type', None)
    if kind not in _NORMS:
        raise ValueError(f'norm_cfg type must be one of {tuple(_NORMS)}; '
                         f'got {kind!r}')
    requires_grad = cfg.pop('requires_grad', True)
    return _NORMS[kind](channels, **cfg).requires_grad_(requires_grad)


def conv_stem(in_channels: int, channels: int, norm_cfg: Dict) -> nn.Module:
    """Overlapped patch embedding, stride 4."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1),
        build_norm(norm_cfg, channels // 2),
        nn.GELU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
        build_norm(norm_cfg, channels),
    )


def conv_downsample(in_channels: int, channels: int,
                    norm_cfg: Dict) -> nn.Module:
    """Overlapped patch merging, stride 2."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride=2, padding=1),
        build_norm(norm_cfg, channels),
    )


def patch_stem(in_channels: int, channels: int, norm_cfg: Dict) -> nn.Module:
    """Plain patch embedding, stride 4, as in Swin."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 4, stride=4),
        build_norm(norm_cfg, channels),
    )


def patch_downsample(in_channels: int, channels: int,
                     norm_cfg: Dict) -> nn.Module:
    """Plain patch merging, stride 2."""
    return nn.Sequential(
        build_norm(norm_cfg, in_channels),
        nn.Conv2d(in_channels, channels, 2, stride=2),
    )


def conv_nhwc(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply an NCHW layer to an NHWC map; free of copies where it is dense."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MLP(nn.Module):
    """Linear, GELU, linear over the last axis.

    Args:
        channels: Channels in and out.
        hidden_channels: Channels between.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch per sample while training.

    Args:
        rate: Probability to drop, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (len(x), ) + (1, ) * (x.dim() - 1)
        kept = torch.empty(shape, dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3f}'
