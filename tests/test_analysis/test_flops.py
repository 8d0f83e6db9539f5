import pytest
import torch
from mmengine.analysis import get_model_complexity_info

from biformer_mm.analysis.cost import make_counter
from biformer_mm.models import BiFormer
from biformer_mm.ops import available_backends

BACKENDS = [
    name
    for name in available_backends()
    if name not in ('cpu', 'triton') or hasattr(torch.library, 'custom_op')
]


def count(model, size):
    info = get_model_complexity_info(model.eval(), (3, *size), show_table=False, show_arch=False)
    return info['flops']


def pytorch_count(run):
    with make_counter() as counter:
        run()
    return counter.get_total_flops()


def tiny(backend):
    return BiFormer(
        dict(
            BiFormer.arch_zoo['tiny'],
            embed_dims=(16, 16, 32, 32),
            depths=(1, 1, 1, 1),
            topks=(1, 2, 4, None),
            head_dim=16,
        ),
        num_regions=3,
        attn_backend=backend,
    )


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'arch, gflops', [('tiny', 2.2), ('small', 4.5), ('base', 9.8), ('stl', 4.6)]
)
def test_flops_at_224_are_the_papers(arch, gflops):
    model = BiFormer(arch, out_indices=(3,), out_norm='BN')
    assert round(count(model, (224, 224)) / 1e9, 1) == gflops


@pytest.mark.parametrize('backend', BACKENDS)
def test_flops_do_not_depend_on_the_backend(backend):
    size = 40, 72  # maps with padding, but no regions of padding only
    assert count(tiny(backend), size) == count(tiny('reference'), size)


def test_portable_leaves_out_queries_in_padding():
    """Of three columns of regions in stage 3, whose map of 3 x 4 becomes 3 x 6, one is padding."""
    size = 40, 56
    saved = count(tiny('reference'), size) - count(tiny('portable'), size)
    regions, tokens, topk, channels = 3, 2, 4, 32
    assert saved == regions * tokens * 2 * topk * tokens * channels


@pytest.mark.skipif(not hasattr(torch.library, 'custom_op'), reason='PyTorch before 2.4')
@pytest.mark.parametrize('backend', BACKENDS)
def test_pytorch_counts_a_backbone_alike(backend):
    """In inference, with the reference's plain matrix products as measure."""
    image = torch.zeros(1, 3, 40, 72)
    with torch.no_grad():
        found, expected = (
            pytorch_count(lambda: tiny(name).eval()(image)) for name in (backend, 'reference')
        )
    assert found == expected
