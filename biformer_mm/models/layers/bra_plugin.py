"""Bi-level routing attention as a layer of other people's networks."""

from typing import Union

from torch import Tensor, nn

from biformer_mm.ops.validation import whole

from ..mmengine_compat import register
from .attention import BiLevelRoutingAttention


@register
class BRAPlugin(nn.Module):
    """Pre-norm residual attention, NCHW in and out: x + BRA(LN(x)).

    The attention's output projection starts at zero, so that the layer
    changes nothing at first: a pretrained network that it is put into goes on
    from where it was.

    It follows the protocol of mmcv's plug-in layers (``plugins=`` of mmdet's
    and mmseg's ResNets, which give ``in_channels``), and works without
    OpenMMLab.

    Args:
        in_channels: Channels, C, in and out.
        head_dim: Channels per head, d.
        num_regions: Regions per side, S, or 'auto' for each map's own.
        topk: Routed regions per region, k.
        padding: 'masked' or 'legacy'; the latter is for released weights.
        attn_backend: Backend of :func:`biformer_mm.ops.region_attention`.

    Raises:
        ValueError: ``head_dim`` does not divide ``in_channels``, or an
            argument breaks a rule of :class:`BiLevelRoutingAttention`.
    """

    _abbr_ = 'bra'  # its name in an mmcv network

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
        in_channels = whole('in_channels', in_channels)
        head_dim = whole('head_dim', head_dim)
        if min(in_channels, head_dim) < 1 or in_channels % head_dim:
            raise ValueError(
                f'in_channels must be a multiple of head_dim; got {in_channels=} and {head_dim=}'
            )
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.attn = BiLevelRoutingAttention(
            in_channels, in_channels // head_dim, num_regions, topk, padding, attn_backend
        )
        nn.init.zeros_(self.attn.proj.weight)
        nn.init.zeros_(self.attn.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), any H and W."""
        out = self.attn(self.norm(x.permute(0, 2, 3, 1)))
        return x + out.permute(0, 3, 1, 2)
