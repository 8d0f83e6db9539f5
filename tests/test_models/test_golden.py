"""Layer and networks against the authors' implementation."""

import golden
import pytest
from torch import nn

from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.models import BiFormer
from biformer_mm.ops import pad_to_regions, partition, routing_index

BACKENDS = ('reference', 'sdpa', 'auto')
pytestmark = pytest.mark.parametrize('backend', BACKENDS)


@pytest.mark.parametrize('name', ['bra_divisible', 'bra_padded', 'bra_many_regions'])
def test_layer(name, backend):
    arrays = golden.load(name)
    layer = golden.build_layer(arrays, backend)
    x = arrays['x'].requires_grad_()
    out = layer(x)
    golden.assert_close(out, arrays['out'], golden.OUT_RTOL, 'out')

    golden.probe_loss([out]).backward()
    golden.assert_close(x.grad, arrays['grad_x'], golden.GRAD_RTOL, 'grad_x')
    expected = convert_state_dict(golden.section(arrays, 'grad'))
    assert set(expected) == set(dict(layer.named_parameters()))
    for param, value in layer.named_parameters():
        golden.assert_close(value.grad, expected[param], golden.GRAD_RTOL, f'grad of {param}')

    regions = partition(pad_to_regions(arrays['x'], layer.num_regions), layer.num_regions)
    query, key, _ = layer.qkv(regions).chunk(3, -1)
    golden.assert_same_sets(routing_index(query, key, layer.topk), arrays['r_idx'])


def test_refactored_layer(backend):
    arrays = golden.load('bra_nchw')
    layer = golden.build_layer(arrays, backend)
    x = arrays['x'].permute(0, 2, 3, 1).requires_grad_()
    out = layer(x).permute(0, 3, 1, 2)
    golden.assert_close(out, arrays['out'], golden.OUT_RTOL, 'out')
    golden.probe_loss([out]).backward()
    golden.assert_close(x.grad.permute(0, 3, 1, 2), arrays['grad_x'], golden.GRAD_RTOL, 'grad_x')


def assert_same_grad_norms(model, expected):
    assert set(expected) == {name for name, _ in model.named_parameters()}
    for name, param in model.named_parameters():
        golden.assert_close(
            param.grad.norm(), expected[name], golden.GRAD_RTOL, f'grad norm of {name}'
        )


@pytest.mark.parametrize(
    'name', ['backbone_s8_divisible', 'backbone_s8_padded', 'backbone_s16_padded']
)
def test_dense_backbone(name, backend):
    arrays = golden.load(name)
    arch, _ = golden.small_arch()
    model = BiFormer(arch, num_regions=arrays['n_win'].item(), attn_backend=backend)
    model.load_state_dict(
        convert_state_dict(golden.section(golden.load('backbone_state'), 'state'))
    )
    model.eval()
    x = arrays['x'].requires_grad_()
    outs = model(x)
    for i, out in enumerate(outs):
        golden.assert_close(out, arrays[f'out/{i}'], golden.OUT_RTOL, f'out/{i}')
    golden.probe_loss(outs).backward()
    golden.assert_close(x.grad[..., ::8, ::8], arrays['grad_x_every_8'], golden.GRAD_RTOL, 'grad_x')
    assert_same_grad_norms(model, convert_state_dict(golden.section(arrays, 'grad_norm')))


class Classifier(nn.Module):
    """Backbone, mean and linear, named as mmpretrain's head is."""

    def __init__(self, arch, num_regions, num_classes, backend):
        super().__init__()
        self.backbone = BiFormer(
            arch, num_regions, out_indices=(3,), out_norm='BN', attn_backend=backend
        )
        self.fc = nn.Linear(arch['embed_dims'][-1], num_classes)

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean(dim=(2, 3)))

    @staticmethod
    def rename(state):
        """Names of convert_state_dict to those of this module."""
        return {n[5:] if n.startswith('head.') else f'backbone.{n}': t for n, t in state.items()}


@pytest.mark.parametrize('name, layout', [('classifier_s7', 0), ('classifier_stl_s7', 1)])
def test_classifier(name, layout, backend):
    arrays = golden.load(name)
    model = Classifier(golden.small_arch()[layout], arrays['n_win'].item(), 10, backend)
    model.load_state_dict(model.rename(convert_state_dict(golden.section(arrays, 'state'))))
    model.eval()
    out = model(arrays['x'])
    golden.assert_close(out, arrays['out'], golden.OUT_RTOL, 'logits')
    golden.probe_loss([out]).backward()
    assert_same_grad_norms(
        model, model.rename(convert_state_dict(golden.section(arrays, 'grad_norm')))
    )
