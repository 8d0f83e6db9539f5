import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from torch import nn

from biformer_mm.engine.runner.frozen import check_frozen
from biformer_mm.models import BiFormer

ARCH = dict(base='small', embed_dims=(32, 32, 32, 32), depths=(1, 1, 1, 1), head_dim=32)


class Net(BaseModule):
    def __init__(self, init_cfg=None, **backbone):
        super().__init__(init_cfg)
        self.backbone = BiFormer(ARCH, out_indices=(3,), out_norm='LN', **backbone)
        self.head = nn.Linear(32, 2)


def found(model, loaded=False, **groups):
    wrapper = OptimWrapper(torch.optim.SGD([dict(params=model.parameters(), **groups)], lr=0.1))
    return [(problem.kind, problem.file) for problem in check_frozen(model, wrapper, loaded)]


def test_a_model_that_is_trained_is_fine():
    assert found(Net()) == []
    assert found(Net(norm_eval=False, frozen_stages=-1)) == []


def test_all_frozen():
    model = Net()
    model.backbone.requires_grad_(False)
    assert ('all-frozen', 'model') not in found(model)
    model.head.requires_grad_(False)
    assert found(model) == [('all-frozen', 'model')]
    assert found(nn.DataParallel(model)) == [('all-frozen', 'model')]


def test_all_rates_are_zero():
    assert found(Net(), lr=0.0) == [('all-frozen', 'optim_wrapper')]
    # A schedule starts with a rate of zero.
    assert found(Net(), lr=0.0, initial_lr=0.1) == []
    model = Net()
    wrapper = OptimWrapper(
        torch.optim.SGD(
            [
                dict(params=model.backbone.parameters(), lr=0.0),
                dict(params=model.head.parameters(), lr=0.1),
            ]
        )
    )
    assert list(check_frozen(model, wrapper, False)) == []


@pytest.mark.parametrize(
    'backbone, cure',
    [
        (dict(norm_eval=True), 'norm_eval=False'),
        (dict(frozen_stages=0), 'frozen_stages=-1'),
        (dict(norm_eval=True, frozen_stages=1), 'frozen_stages=-1 and norm_eval=False'),
    ],
)
def test_frozen_weights_that_are_random(backbone, cure):
    model = Net(**backbone)
    (problem,) = check_frozen(model, None, loaded=False)
    assert (problem.kind, problem.file) == ('frozen-random', 'model.backbone')
    assert problem.detail.endswith(f'or set {cure}')
    assert found(model, loaded=True) == []
    weights = dict(type='Pretrained', checkpoint='weights.pth')
    assert found(Net(**backbone, init_cfg=[dict(type='Xavier', layer='Linear'), weights])) == []
    model.backbone.init_cfg = weights
    assert found(model) == []


def test_norm_eval_without_batch_norms_is_fine():
    model = nn.ModuleDict(dict(backbone=nn.LayerNorm(3)))
    model.backbone.norm_eval = True
    assert found(model) == []


def test_fixed_parameters_of_a_model_are_fine():
    """As position embeddings are; they belong to no frozen stage."""
    model = Net()
    model.head.bias.requires_grad_(False)
    model.head.frozen_stages = -1
    assert found(model) == []
