"""BRAPlugin alone, and in the ResNets of the frameworks."""

import importlib

import pytest
import torch
from mmcv.cnn import build_plugin_layer
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from mmengine.utils import import_modules_from_strings
from tool_runner import ROOT
from torch import nn

from biformer_mm.models import BiLevelRoutingAttention, BRAPlugin

EXAMPLES = ROOT / 'examples' / 'resnet_plugin'
STAGES = (False, False, True, True)


def wake(module):
    """Give the attention's outputs a weight, as training does."""
    for layer in module.modules():
        if isinstance(layer, BRAPlugin):
            nn.init.normal_(layer.attn.proj.weight, std=0.02)


def plugins(position, **options):
    return [dict(cfg=dict(type='BRAPlugin', **options), stages=STAGES, position=position)]


def build(type, **options):
    # Frameworks register on import.
    importlib.import_module(f'{type.split(".")[0]}.models')
    torch.manual_seed(0)
    return MODELS.build(dict(type=type, **options))


@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 3)])
def test_changes_nothing_at_first(size):
    x = torch.randn(2, 64, *size)
    torch.testing.assert_close(BRAPlugin(64)(x), x, rtol=0, atol=0)


@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 3)])
def test_is_the_attention_of_normed_tokens_and_a_residual(size):
    torch.manual_seed(0)
    layer = BRAPlugin(64, head_dim=16, num_regions=2, topk=3).double()
    wake(layer)
    attn = BiLevelRoutingAttention(64, 4, 2, 3, padding='masked', attn_backend='reference').double()
    attn.load_state_dict(layer.attn.state_dict())
    x = torch.randn(2, 64, *size, dtype=torch.float64)
    tokens = x.permute(0, 2, 3, 1)
    var, mean = torch.var_mean(tokens, dim=-1, keepdim=True, correction=0)
    expected = tokens + attn((tokens - mean) / (var + 1e-6).sqrt())
    torch.testing.assert_close(layer(x), expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format(memory_format):
    x = torch.randn(2, 64, 6, 6).contiguous(memory_format=memory_format)
    layer = BRAPlugin(64)
    assert layer(x).is_contiguous(memory_format=memory_format)


def test_padding_of_the_map_changes_nothing():
    """By default, unlike with released weights."""
    torch.manual_seed(0)
    x = torch.randn(1, 32, 5, 5)
    padded, legacy = (
        BRAPlugin(32, num_regions=3, **options) for options in ({}, dict(padding='legacy'))
    )
    assert padded.attn.padding == 'masked'
    wake(padded)
    nn.init.normal_(padded.attn.qkv.bias)  # what legacy padding would hold
    legacy.load_state_dict(padded.state_dict())
    padded.attn.topk = legacy.attn.topk = 9  # attention to the whole map
    whole = BRAPlugin(32, num_regions=1, topk=1)
    whole.load_state_dict(padded.state_dict())
    torch.testing.assert_close(padded(x), whole(x))
    assert not torch.allclose(legacy(x), whole(x), atol=1e-4)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(in_channels=40), 'multiple of head_dim; got in_channels=40 and head_dim=32'),
        (dict(in_channels=64, head_dim=0), 'head_dim=0'),
        (dict(in_channels=64, num_regions=2, topk=5), 'topk=5'),
    ],
)
def test_wrong_argument(options, message):
    with pytest.raises(ValueError, match=message):
        BRAPlugin(**options)


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_mmcv_builds_it_in_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        name, layer = build_plugin_layer(
            dict(type='BRAPlugin', topk=2), postfix='_a', in_channels=64
        )
    assert name == 'bra_a'
    assert isinstance(layer, BRAPlugin) and layer.attn.topk == 2


@pytest.mark.parametrize(
    'position, added', [('after_conv2', 4_816_896), ('after_conv3', 75_890_688)]
)
@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_resnets_take_it(framework, position, added):
    """In all blocks of two stages; the counts are those of the docs."""
    kind = f'{framework}.ResNet'
    with torch.device('meta'):
        plain = build(kind, depth=50)
        model = build(kind, depth=50, plugins=plugins(position))
    found = [name for name, module in model.named_modules() if isinstance(module, BRAPlugin)]
    assert found == ([f'layer3.{i}.bra' for i in range(6)] + [f'layer4.{i}.bra' for i in range(3)])
    assert sum(p.numel() for p in model.parameters()) == added + sum(
        p.numel() for p in plain.parameters()
    )


@pytest.mark.parametrize('position', ['after_conv2', 'after_conv3'])
@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_pretrained_resnet_goes_on_from_where_it_was(framework, position, tmp_path):
    kind = f'{framework}.ResNet'
    options = dict(depth=50, base_channels=32)  # half as wide: faster
    plain = build(kind, **options)
    path = tmp_path / 'resnet.pth'
    torch.save(plain.state_dict(), path)
    model = build(
        kind,
        plugins=plugins(position),
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
        **options,
    )
    model.init_weights()
    image = torch.randn(1, 3, 64, 96)
    plain.eval(), model.eval()
    for found, expected in zip(model(image), plain(image)):
        torch.testing.assert_close(found, expected)
    wake(model)
    assert not torch.allclose(model(image)[3], plain(image)[3], rtol=0.01)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def detector():
    cfg = Config.fromfile(EXAMPLES / 'retinanet_r50_bra.py').model
    cfg.backbone.init_cfg = None  # no download
    cfg.backbone.frozen_stages = -1
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg).train()


def test_retinanet_trains():
    """Two steps: the first moves the attention's zero projection, with which
    nothing before it has a gradient yet."""
    from mmdet.structures import DetDataSample

    model = detector()
    model.init_weights()
    for name, module in model.backbone.named_modules():
        if name.endswith('bn3'):  # mmdet has them start at zero
            nn.init.ones_(module.weight)
    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=torch.tensor([[10.0, 10.0, 70.0, 60.0]]), labels=torch.tensor([3])
        ),
        metainfo=dict(img_shape=(96, 128), pad_shape=(96, 128), scale_factor=(1, 1)),
    )
    image = torch.randn(1, 3, 96, 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum(
            x if torch.is_tensor(x) else sum(x) for x in model.loss(image, [sample]).values()
        )
        loss.backward()
        losses.append(loss.item())
        assert all(x is not None for x in gradients(model).values())
        optimizer.step()
    dead = [name for name, x in gradients(model).items() if not x.any()]
    assert not dead
    attention = [n for n in gradients(model) if '.bra.' in n]
    assert len(attention) == 9 * 8
    assert torch.isfinite(torch.tensor(losses)).all()


def test_classifier_of_mmpretrain_takes_mmdets_resnet():
    """As mmpretrain's own has no plug-ins."""
    cfg = Config.fromfile(EXAMPLES / 'resnet50_bra_in1k.py')
    import_modules_from_strings(**cfg.custom_imports)
    from mmpretrain.structures import DataSample

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).train()
    assert sum(isinstance(m, BRAPlugin) for m in model.modules()) == 9
    assert model.backbone.bn1.training
    wake(model)
    samples = [DataSample().set_gt_label(label) for label in (1, 2)]
    model.loss(torch.randn(2, 3, 64, 64), samples)['loss'].backward()
    assert all(p.grad.any() for p in model.parameters())
