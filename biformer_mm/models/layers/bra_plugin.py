"""Bi-level routing attention as a plug-in layer for other networks."""

from typing import Union

from torch import Tensor, nn

from biformer_mm.ops.validation import check_multiple

from ..mmengine_compat import register
from .attention import BiLevelRoutingAttention


@register
class BRAPlugin(nn.Module):
    """Pre-norm residual attention, NCHW in and out: x + BRA(LN(x)).

    The output projection starts at zero, so the layer changes nothing at first. A pretrained
    network with the layer added starts from its pretrained outputs.

    It follows the protocol of mmcv's plug-in layers (``plugins=`` of the ResNets in mmdet and
    mmseg, which pass ``in_channels``), and works without OpenMMLab. For the YOLOs of ultralytics
    see :mod:`biformer_mm.ultralytics`.

    Args:
        in_channels: Channels in and out, C.
        head_dim: Channels per head, d.
        num_regions: Regions per side, S, or 'auto' to choose S for each map size.
        topk: Routed regions per region, k.
        padding: 'masked' or 'legacy'; see :class:`BiLevelRoutingAttention`.
        attn_backend: Backend of :func:`biformer_mm.ops.region_attention`.

    Raises:
        ValueError: ``head_dim`` does not divide ``in_channels``, or an
            argument breaks a rule of :class:`BiLevelRoutingAttention`.
    """

    _abbr_ = 'bra'  # mmcv names the layer with it

    def __init__(
        self,
        in_channels: int,
        head_dim: int = 32,
        num_regions: Union[int, str] = 'auto',
        topk: int = 4,
        padding: str = 'masked',
        attn_backend: str = 'auto',
    ) -> None:
        super().__init__()
        in_channels, head_dim = check_multiple('in_channels', in_channels, 'head_dim', head_dim)
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.attn = BiLevelRoutingAttention(
            in_channels, in_channels // head_dim, num_regions, topk, padding, attn_backend
        )
        nn.init.zeros_(self.attn.proj.weight)
        nn.init.zeros_(self.attn.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (N, C, H, W) -> (N, C, H, W), any H and W."""
        out = self.attn(self.norm(x.permute(0, 2, 3, 1)))
        return x + out.permute(0, 3, 1, 2)
