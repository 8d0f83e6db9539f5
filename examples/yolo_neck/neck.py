"""A YOLO-style neck with one layer of attention. Needs PyTorch and einops."""

from typing import List, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biformer_mm.models import BRAPlugin


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, channels: int, out_channels: int, size: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, out_channels, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.SiLU(),
        )


class CSP(nn.Module):
    """Half of the channels pass a residual pair of convolutions."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.split = Conv(channels, out_channels)
        self.block = nn.Sequential(Conv(half, half), Conv(half, half, 3))
        self.join = Conv(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        skip, x = self.split(x).chunk(2, dim=1)
        return self.join(torch.cat([skip, x + self.block(x)], dim=1))


class Neck(nn.Module):
    """Top-down, then bottom-up, over maps of strides 8, 16 and 32.

    Args:
        channels: Channels of the three maps, in and out.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256)) -> None:
        super().__init__()
        c3, c4, c5 = channels
        self.attention = BRAPlugin(c5)  # the layer: NCHW in and out
        self.lateral5 = Conv(c5, c4)
        self.top_down4 = CSP(c4 + c4, c4)
        self.lateral4 = Conv(c4, c3)
        self.top_down3 = CSP(c3 + c3, c3)
        self.down3 = Conv(c3, c3, 3, stride=2)
        self.bottom_up4 = CSP(c3 + c3, c4)
        self.down4 = Conv(c4, c4, 3, stride=2)
        self.bottom_up5 = CSP(c4 + c4, c5)

    def forward(self, maps: Sequence[Tensor]) -> List[Tensor]:
        """Three (N, C, H, W) maps -> three of the same shapes."""
        x3, x4, x5 = maps
        top5 = self.lateral5(self.attention(x5))
        top4 = self.lateral4(self.top_down4(_join(top5, x4)))
        out3 = self.top_down3(_join(top4, x3))
        out4 = self.bottom_up4(torch.cat([self.down3(out3), top4], dim=1))
        out5 = self.bottom_up5(torch.cat([self.down4(out4), top5], dim=1))
        return [out3, out4, out5]


def _join(coarse: Tensor, fine: Tensor) -> Tensor:
    coarse = F.interpolate(coarse, size=fine.shape[2:], mode='nearest')
    return torch.cat([coarse, fine], dim=1)


if __name__ == '__main__':
    maps = [torch.randn(2, 64 << i, 80 >> i, 80 >> i) for i in range(3)]  # of 640 x 640 images
    for out in Neck()(maps):
        print(tuple(out.shape))
