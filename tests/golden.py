"""The golden files, computed with the authors' implementation, and how to
compare with them (tests/data/golden/README.md)."""

from pathlib import Path
from typing import Dict, Iterable, Tuple

import numpy as np
import torch
from torch import Tensor

from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.models import BiLevelRoutingAttention

GOLDEN = Path(__file__).parent / 'data' / 'golden'
OUT_RTOL, GRAD_RTOL = 1e-5, 1e-4


def load(name: str) -> Dict[str, Tensor]:
    with np.load(GOLDEN / f'{name}.npz') as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def section(arrays: Dict[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    """The entries below ``prefix/``, without it."""
    return {
        key[len(prefix) + 1 :]: value
        for key, value in arrays.items()
        if key.startswith(prefix + '/')
    }


def probe_loss(outs: Iterable[Tensor]) -> Tensor:
    """The scalar whose gradients the golden files hold."""
    return sum(
        (
            out
            * torch.sin(0.37 * torch.arange(out.numel(), dtype=torch.float64))
            .to(out.dtype)
            .view(out.shape)
        ).sum()
        for out in outs
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected|| in fp64."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    actual, expected = actual.detach().double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


def assert_close(actual: Tensor, expected: Tensor, rtol: float, name: str) -> None:
    error = relative_error(actual, expected)
    assert error <= rtol, f'{name}: relative error {error:.2e} > {rtol:.0e}'


def assert_same_sets(actual: Tensor, expected: Tensor) -> None:
    """Routing indices as sets per row."""
    torch.testing.assert_close(actual.sort(-1).values, expected.long().sort(-1).values)


def build_layer(arrays: Dict[str, Tensor], backend: str) -> BiLevelRoutingAttention:
    """The layer of a golden file."""
    num_regions, topk, num_heads = (arrays[k].item() for k in ('n_win', 'topk', 'num_heads'))
    state = convert_state_dict(section(arrays, 'state'))
    layer = BiLevelRoutingAttention(
        len(state['proj.bias']), num_heads, num_regions, topk, attn_backend=backend
    )
    layer.load_state_dict(state)
    return layer


def small_arch() -> Tuple[Dict, Dict]:
    """The arch of the golden networks, conv stem and Swin-T layout."""
    state = load('backbone_state')
    common = dict(
        embed_dims=state['embed_dim'].tolist(),
        depths=state['depth'].tolist(),
        topks=[None if k == -2 else k for k in state['topks'].tolist()],
        head_dim=state['head_dim'].item(),
    )
    return (
        dict(common, mlp_ratio=3, stem='conv', pos_conv=True),
        dict(common, mlp_ratio=4, stem='patch', pos_conv=False),
    )
