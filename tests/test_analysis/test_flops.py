import pytest
from mmengine.analysis import get_model_complexity_info

from biformer_mm.models import BiFormer


def count(model, size):
    info = get_model_complexity_info(
        model.eval(), (3, *size), show_table=False, show_arch=False)
    return info['flops']


@pytest.mark.parametrize('arch, gflops', [('tiny', 2.2), ('small', 4.5),
                                          ('base', 9.8), ('stl', 4.6)])
def test_flops_at_224_are_the_papers(arch, gflops):
    model = BiFormer(arch, out_indices=(3, ), out_norm='BN')
    assert round(count(model, (224, 224)) / 1e9, 1) == gflops


def test_flops_do_not_depend_on_the_backend():
    flops = {
        count(
            BiFormer('tiny', num_regions=4, attn_backend=backend), (72, 104))
        for backend in ('reference', 'sdpa')
    }
    assert len(flops) == 1
