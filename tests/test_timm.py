"""BiFormer as timm's users meet it."""

import golden
import pytest
import torch
from torch import nn

from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.models import BiFormer

timm = pytest.importorskip('timm', reason='timm is not installed')
from biformer_mm.timm import BiFormerClassifier  # noqa: E402

PARAMETERS = dict(tiny=13_142_760, small=25_536_232, base=56_804_968, stl=28_372_552)
ARCHS = tuple(PARAMETERS)
IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def create(arch='tiny', **options):
    torch.manual_seed(0)
    return timm.create_model(f'biformer_{arch}', **options)


def test_all_are_listed_and_none_claims_weights():
    names = [f'biformer_{arch}' for arch in sorted(ARCHS)]
    assert timm.list_models('biformer_*') == names
    assert timm.list_models('biformer_*', pretrained=True) == []
    with pytest.raises(RuntimeError, match='No pretrained weights exist'):
        create(pretrained=True)


@pytest.mark.parametrize('arch', ARCHS)
def test_parameters_are_the_papers(arch):
    with torch.device('meta'):
        model = create(arch)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]


@pytest.mark.parametrize('name, layout', [('classifier_s7', 0), ('classifier_stl_s7', 1)])
def test_outputs_are_the_authors(name, layout):
    arrays = golden.load(name)
    model = BiFormerClassifier(
        golden.small_arch()[layout], num_classes=10, num_regions=arrays['n_win'].item()
    )
    model.load_state_dict(convert_state_dict(golden.section(arrays, 'state')))
    out = model.eval()(arrays['x'])
    golden.assert_close(out, arrays['out'], golden.OUT_RTOL, 'logits')
    golden.probe_loss([out]).backward()
    expected = convert_state_dict(golden.section(arrays, 'grad_norm'))
    assert set(expected) == {n for n, _ in model.named_parameters()}
    for param, value in model.named_parameters():
        golden.assert_close(
            value.grad.norm(), expected[param], golden.GRAD_RTOL, f'grad norm of {param}'
        )


def test_default_cfg_names_layers_of_the_model():
    model = create(num_classes=7, in_chans=4)
    cfg = model.default_cfg
    assert cfg['input_size'] == (3, 224, 224) and cfg['crop_pct'] == 0.875
    assert cfg['architecture'] == 'biformer_tiny'
    assert model.get_submodule(cfg['first_conv']).in_channels == 4
    assert model.get_submodule(cfg['classifier']) is model.get_classifier()
    assert model.get_classifier().out_features == model.num_classes == 7


def test_head_is_the_classifier_of_the_features():
    model = create(num_classes=7).eval()
    maps = model.forward_features(IMAGE)
    assert maps.shape == (2, model.num_features, 2, 3)
    pooled = model.forward_head(maps, pre_logits=True)
    torch.testing.assert_close(pooled, maps.mean(dim=(2, 3)))
    fc = model.get_classifier()
    torch.testing.assert_close(model(IMAGE), pooled @ fc.weight.T + fc.bias)
    model.reset_classifier(3)
    assert model(IMAGE).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    torch.testing.assert_close(model(IMAGE), pooled)
    model.reset_classifier(0, global_pool='max')
    torch.testing.assert_close(model(IMAGE), maps.amax(dim=(2, 3)))
    model.reset_classifier(0, global_pool='')
    torch.testing.assert_close(model(IMAGE), maps)
    no_head = create(num_classes=0, global_pool='')
    assert no_head.eval()(IMAGE).shape == maps.shape


def test_rates_of_drop_path_and_dropout():
    model = create(drop_path_rate=0.3, drop_rate=0.2)
    rates = [block.drop_path.rate for stage in model.stages for block in stage]
    torch.testing.assert_close(rates, torch.linspace(0, 0.3, 14).tolist())
    assert model.head.drop.p == 0.2


def test_options_of_the_backbone_reach_it():
    model = create(num_regions=16, padding='masked', attn_backend='reference')
    attn = model.stages[0][0].attn
    assert (attn.num_regions, attn.padding, attn.attn_backend) == (16, 'masked', 'reference')
    with pytest.raises(TypeError, match='patch_size'):
        create(patch_size=4)


def test_features_are_the_maps_of_the_backbone():
    features = create(features_only=True, out_indices=(1, 3)).eval()
    assert features.feature_info.channels() == [128, 512]
    assert features.feature_info.reduction() == [8, 32]
    backbone = BiFormer('tiny', out_indices=(1, 3), out_norm=None).eval()
    backbone.load_state_dict(features.model.state_dict())
    for found, expected in zip(features(IMAGE), backbone(IMAGE)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    'out_indices, channels',
    [(None, [64, 128, 256, 512]), ((0, 2), [64, 256]), ((-2,), [256]), (2, [256, 512])],
)
def test_features_have_no_weight_to_spare(out_indices, channels):
    """Stages, norm and head that no map needs are gone: DDP goes without
    find_unused_parameters."""
    model = create(features_only=True, out_indices=out_indices)
    maps = model(IMAGE)
    assert [x.shape[1] for x in maps] == channels
    assert model.feature_info.channels() == channels
    sum(x.square().mean() for x in maps).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('feature_cls', ['fx', 'hook'])
def test_other_feature_extractors_give_the_same_maps(feature_cls):
    options = dict(features_only=True, out_indices=(1, 3), num_regions=4)
    getter = create(**options).eval()
    features = create(feature_cls=feature_cls, **options).eval()
    assert features.feature_info.channels() == [128, 512]
    for found, expected in zip(features(IMAGE), getter(IMAGE)):
        torch.testing.assert_close(found, expected)


def test_features_in_channels_last_order():
    options = dict(features_only=True, out_indices=(1, 3))
    maps = create(output_fmt='NHWC', **options).eval()(IMAGE)
    for found, expected in zip(maps, create(**options).eval()(IMAGE)):
        torch.testing.assert_close(found, expected.permute(0, 2, 3, 1), rtol=0, atol=0)
    final, _ = create().eval().forward_intermediates(IMAGE, output_fmt='NHWC')
    assert final.shape == (2, 2, 3, 512)
    with pytest.raises(ValueError, match="use feature_cls='getter'.*got 'NHWC'"):
        create(output_fmt='NHWC', feature_cls='fx', **options)
    with pytest.raises(TypeError, match='output_fmt'):
        create(output_fmt='NHWC')  # a classifier has no maps


def test_stage_that_is_not_there():
    with pytest.raises(ValueError, match=r'stages 0 to 3; asked for: \[4\]'):
        create(features_only=True, out_indices=(4,))


def test_intermediates():
    model = create().eval()
    final, maps = model.forward_intermediates(IMAGE, norm=True)
    torch.testing.assert_close(final, model.forward_features(IMAGE))
    torch.testing.assert_close(maps[-1], final)
    assert [x.shape[2:] for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    raw = model.forward_intermediates(IMAGE, 1, intermediates_only=True)[0]
    torch.testing.assert_close(model.out_norms['3'](raw), final)

    calls = []
    model.stages[2][0].register_forward_hook(lambda *_: calls.append(1))
    early = model.forward_intermediates(IMAGE, (1,), stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, maps[1:2])
    assert not calls
    with pytest.raises(ValueError, match=r"got 'NLC'"):
        model.forward_intermediates(IMAGE, output_fmt='NLC')


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """File with a classifier's weights; head and norm as in the release."""
    state = create(num_classes=4).state_dict()
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(
        dict(
            model={
                n.replace('out_norms.3', 'norm').replace('head.fc', 'head'): t
                for n, t in state.items()
            }
        ),
        path,
    )
    return dict(file=str(path), num_classes=4), state


def test_weights_load_and_adapt(released):
    """To other classes and channels, as timm does it."""
    overlay, state = released
    model = timm.create_model(
        'biformer_tiny', pretrained=True, num_classes=4, pretrained_cfg_overlay=overlay
    )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)

    model = timm.create_model(
        'biformer_tiny', pretrained=True, num_classes=9, in_chans=1, pretrained_cfg_overlay=overlay
    )
    found = model.state_dict()
    assert found['head.fc.weight'].shape == (9, 512)
    torch.testing.assert_close(found['stem.0.weight'], state['stem.0.weight'].sum(1, keepdim=True))
    for name in set(state) - {'head.fc.weight', 'head.fc.bias', 'stem.0.weight'}:
        torch.testing.assert_close(found[name], state[name], rtol=0, atol=0)


def test_checkpointing_recomputes_and_changes_nothing():
    model = create(num_classes=3)
    calls = []
    model.stages[2][0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(IMAGE).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert len(calls) == 1 + 2
    for plain, recomputed in zip(*grads):
        torch.testing.assert_close(recomputed, plain)


def test_groups_deepen_with_the_network():
    model = create()
    group = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    order = [
        'stem.0.weight',
        'stages.0.0.norm1.weight',
        'stages.0.1.mlp.fc1.bias',
        'downsamples.0.0.weight',
        'stages.1.0.norm1.weight',
        'stages.2.7.norm1.weight',
        'downsamples.2.1.bias',
        'stages.3.1.attn.qkv.weight',
        'head.fc.weight',
    ]
    depths = [group[name] for name in order]
    assert depths == sorted(set(depths))
    assert group['out_norms.3.weight'] == group['head.fc.weight']
    assert len(set(group.values())) == 1 + 14 + 3 + 1
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert len(set(coarse.values())) == 1 + 4 + 1


def test_tables_of_positions_do_not_decay():
    arch = dict(base='stl', embed_dims=(16, 32, 64, 96), depths=(1, 1, 1, 1), head_dim=16)
    arch['attention'] = ['shifted_window', 'deformable', 'full', 'full']
    names = BiFormerClassifier(arch).no_weight_decay()
    assert names == {'stages.0.0.attn.bias.table', 'stages.1.0.attn.table'}
    assert create().no_weight_decay() == set()


def test_weights_decay_as_timm_groups_them():
    """Norms and biases are left out of the decay."""
    from timm.optim import create_optimizer_v2

    model = create()
    optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    decayed = {
        id(p) for group in optimizer.param_groups if group['weight_decay'] for p in group['params']
    }
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            is_kernel = name == 'weight' and isinstance(module, (nn.Linear, nn.Conv2d))
            assert (id(p) in decayed) == is_kernel
    rates = {group['lr_scale'] for group in optimizer.param_groups}
    assert max(rates) == 1 and min(rates) == pytest.approx(0.8**18)
