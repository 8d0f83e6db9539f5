"""Blocks of which every op but the products is one of our kernels."""

import golden
import pytest
import torch
from torch import nn

from biformer_mm.models import BiFormer, BiLevelRoutingAttention
from biformer_mm.models.layers import basic
from biformer_mm.ops import fused, partition, routing_index

pytest.importorskip('triton', minversion='3.0')

ARCH = dict(
    embed_dims=(16, 32),
    depths=(1, 1),
    topks=(2, None),
    mlp_ratio=2,
    head_dim=16,
    stem='patch',
    pos_conv=True,
)
REASONS = ('norm_reason', 'depthwise_reason', 'routing_reason')


@pytest.fixture
def kernels(monkeypatch):
    """Let them run here, wherever that is; the names of those that ran."""
    ran = []
    for name in REASONS:
        monkeypatch.setattr(fused, name, lambda *_: None)
    for name in ('layer_norm', 'add_layer_norm', 'add_depthwise', 'routing', 'attention_with_lce'):

        def run(*args, _name=name, _own=getattr(fused, name)):
            ran.append(_name)
            return _own(*args)

        monkeypatch.setattr(fused, name, run)
    return ran


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['bra_divisible', pytest.param('bra_padded', marks=pytest.mark.slow)]
)
def test_layer_is_the_authors(name, kernels):
    arrays = golden.load(name)
    layer = golden.build_layer(arrays, 'triton')
    x = arrays['x'].requires_grad_()
    out = layer(x)
    assert kernels == ['routing', 'attention_with_lce']
    golden.assert_close(out, arrays['out'], golden.OUT_RTOL, 'out')
    golden.probe_loss([out]).backward()
    golden.assert_close(x.grad, arrays['grad_x'], golden.GRAD_RTOL, 'grad_x')
    expected = golden.section(arrays, 'grad')
    assert len(expected) == len(list(layer.parameters()))
    for param, value in layer.named_parameters():
        if param in expected:
            golden.assert_close(value.grad, expected[param], golden.GRAD_RTOL, f'grad of {param}')


@pytest.mark.parametrize('name', ['bra_divisible', 'bra_padded', 'bra_many_regions'])
def test_regions_are_those_of_the_authors(name, kernels):
    arrays = golden.load(name)
    layer = golden.build_layer(arrays, 'reference')
    query, key, _ = layer.project(arrays['x']).chunk(3, -1)
    index = routing_index(
        partition(query, layer.num_regions), partition(key, layer.num_regions), layer.topk
    )
    assert kernels == ['routing']
    golden.assert_same_sets(index, arrays['r_idx'])


@pytest.mark.slow
@pytest.mark.parametrize('padding', ['legacy', 'masked'])
def test_network_equals_that_of_pytorch(padding, kernels, monkeypatch):
    """Maps and all gradients; of 7 x 9 tokens, in 2 x 2 regions."""
    torch.manual_seed(0)
    model = BiFormer(
        ARCH, num_regions=2, padding=padding, out_indices=(0, 1), attn_backend='triton'
    ).eval()
    for param in model.parameters():  # away from 0 and 1
        nn.init.normal_(param, std=0.2)
    x = torch.randn(2, 3, 33, 39)
    found = maps_and_gradients(model, x)
    assert kernels == [
        'add_depthwise',
        'layer_norm',
        'routing',
        'attention_with_lce',
        'add_layer_norm',
        'add_depthwise',
        'layer_norm',
        'add_depthwise',
        'add_layer_norm',
    ]
    monkeypatch.undo()
    for block in (block for stage in model.stages for block in stage):
        block.attn.attn_backend = 'reference'
    exact = maps_and_gradients(model.double(), x.double())
    for name, value in found.items():
        golden.assert_close(value, exact[name], 2e-5, name)


def maps_and_gradients(model, x):
    model.zero_grad()
    outs = model(x)
    golden.probe_loss(outs).backward()
    return {
        **{f'map {i}': out.detach() for i, out in enumerate(outs)},
        **{name: p.grad.clone() for name, p in model.named_parameters()},
    }


def test_gradients_of_the_projection_are_not_concatenated(kernels):
    """Nor is anything filled with zeros first, or added to them after."""
    layer = BiLevelRoutingAttention(16, 1, 2, 2, attn_backend='triton')
    out = layer(torch.randn(1, 4, 4, 16, requires_grad=True))
    with torch.profiler.profile() as profile:
        out.sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert 'biformer_mm::attention_with_lce_backward' in names
    assert not names & {'aten::cat', 'aten::zeros', 'aten::slice_backward'}


class TestWhatIsNotOurs:
    """A layer that was replaced, wrapped or hooked is called as it is."""

    def block(self):
        model = BiFormer(ARCH, num_regions=2, out_indices=(0, 1), out_norm=None)
        return model.stages[0][0].eval()

    def test_hooked_layers(self, kernels):
        block, seen = self.block(), []
        for layer in (block.norm2, block.pos_conv, block.attn.lce):
            layer.register_forward_hook(lambda layer, *_: seen.append(type(layer)))
        block.attn.attn_backend = 'triton'
        block(torch.randn(1, 4, 4, 16))
        assert seen == [basic.DepthwiseConv, basic.DepthwiseConv, basic.LayerNorm]

    def test_replaced_layers(self, kernels):
        block = self.block()
        block.norm1, block.norm2 = nn.Identity(), nn.Identity()
        block.pos_conv = nn.Identity()
        block(torch.randn(1, 4, 4, 16))
        assert kernels == ['routing', 'add_depthwise']

    def test_other_dtypes(self, monkeypatch):
        """Of a sum whose terms differ, as PyTorch promotes them."""
        monkeypatch.setattr(fused, 'unsupported_reason', lambda _: None)
        x = torch.randn(1, 2, 2, 16)
        assert 'dtype' in fused.norm_reason(FakeGPU(x), FakeGPU(x.half()))
        assert 'dtype' in fused.depthwise_reason(FakeGPU(x), FakeGPU(x.half()))
        assert fused.norm_reason(FakeGPU(x), FakeGPU(x)) is None
        assert '4096 channels' in fused.norm_reason(FakeGPU(torch.zeros(1, 1, 1, 5000)))


class FakeGPU:
    """Says of a CPU's tensor that it is on a GPU."""

    is_cuda = True

    def __init__(self, tensor):
        self.shape, self.dtype = tensor.shape, tensor.dtype


@pytest.mark.parametrize('name', ['reference', 'sdpa', 'cpu'])
def test_a_chosen_backend_switches_the_kernels_off(name, monkeypatch):
    monkeypatch.setenv('BIFORMER_MM_BACKEND', name)
    reason = fused.unsupported_reason(FakeGPU(torch.zeros(1)))
    assert reason == f'the backend {name!r} was chosen'
