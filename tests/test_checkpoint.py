"""Names of released checkpoints, and the strict loader."""
import pytest
import torch

import golden
from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.models import BiFormer


def released():
    """A released backbone's weights and the arch that they fit."""
    state = golden.section(golden.load('backbone_state'), 'state')
    return state, golden.small_arch()[0]


def build(arch, **kwargs):
    torch.manual_seed(0)
    return BiFormer(arch, num_regions=8, **kwargs)


def save(state, tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(state, path)
    return str(path)


def pretrained(path, **kwargs):
    return dict(type='Pretrained', checkpoint=path, **kwargs)


@pytest.mark.parametrize('wrap', [
    lambda state: state,
    lambda state: dict(model=state, epoch=300),
    lambda state: dict(state_dict=state, meta={}),
    lambda state: {f'module.{k}': v for k, v in state.items()},
])
def test_convert_takes_any_wrapping_and_changes_nothing(wrap):
    state, arch = released()
    wrapped = wrap(state)
    keys = list(wrapped)
    converted = convert_state_dict(wrapped)
    assert list(wrapped) == keys
    model = build(arch)
    assert list(converted) and set(converted) == set(model.state_dict())
    stem = converted['stem.0.weight']
    assert stem is state['downsample_layers.0.0.weight']


def test_convert_keeps_our_own_names():
    own = build(released()[1]).state_dict()
    assert convert_state_dict(own).keys() == own.keys()


def test_convert_reads_the_refactored_layer():
    state = golden.section(golden.load('bra_nchw'), 'state')
    converted = convert_state_dict(state)
    assert set(converted) == {
        f'{layer}.{kind}'
        for layer in ('qkv', 'proj', 'lce') for kind in ('weight', 'bias')
    }
    assert torch.equal(converted['qkv.weight'],
                       state['qkv_linear.weight'][:, :, 0, 0])
    assert converted['lce.weight'].shape == (64, 1, 5, 5)


def test_convert_lists_unknown_names():
    state, _ = released()
    state['layers.0.weight'] = state['stages.0.0.attn.rpb'] = torch.zeros(1)
    with pytest.raises(
            ValueError,
            match=r'2 of its \d+ keys are unknown: layers.0.weight, '
            'stages.0.0.attn.rpb'):
        convert_state_dict(state)


def test_convert_refuses_two_names_of_one_weight():
    state, _ = released()
    state['stages.0.0.attn.proj.bias'] = torch.zeros(32)
    with pytest.raises(ValueError, match="mean 'stages.0.0.attn.proj.bias'"):
        convert_state_dict(state)


def test_pretrained_takes_a_released_backbone(tmp_path):
    state, arch = released()
    model = build(arch, init_cfg=pretrained(save(state, tmp_path)))
    model.init_weights()
    for name, value in convert_state_dict(state).items():
        assert torch.equal(model.state_dict()[name], value), name


def test_pretrained_takes_part_of_a_detector(tmp_path):
    state, arch = released()
    detector = {f'backbone.{k}': v for k, v in state.items()}
    detector['neck.conv.weight'] = torch.zeros(1)
    path = save(dict(state_dict=detector), tmp_path)
    model = build(arch, init_cfg=pretrained(path, prefix='backbone.'))
    model.init_weights()
    assert torch.equal(model.stem[0].weight,
                       state['downsample_layers.0.0.weight'])
    model = build(arch, init_cfg=pretrained(path, prefix='encoder.'))
    with pytest.raises(ValueError, match="no key .* starts with 'encoder.'"):
        model.init_weights()


def test_pretrained_names_what_a_classifier_leaves_over(tmp_path, monkeypatch):
    state = golden.section(golden.load('classifier_s7'), 'state')
    arch = golden.small_arch()[0]
    model = build(arch, init_cfg=pretrained(save(state, tmp_path)))
    norm = model.out_norms['3'].weight.clone()
    lines = []
    monkeypatch.setattr('biformer_mm.checkpoint.print_log',
                        lambda line, **_: lines.append(line))
    model.init_weights()
    assert torch.equal(model.stem[0].weight,
                       state['downsample_layers.0.0.weight'])
    # A batch norm's weights are not a layer norm's, though they would fit.
    assert torch.equal(model.out_norms['3'].weight, norm)
    assert len(lines) == 1
    left_over, fresh = lines[0].split('left over: ')[1].split(
        'kept as initialised: ')
    assert 'head.fc.weight' in left_over
    assert 'out_norms.3.running_mean' in left_over
    assert all(f'out_norms.{i}.bias' in fresh for i in range(4))


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('stages.1.0.norm1.weight'),
     'missing: stages.1.0.norm1.weight$'),
    (lambda s: s.update({'stages.0.7.norm1.bias': torch.zeros(3)}),
     'unexpected: stages.0.7.norm1.bias$'),
    (lambda s: s.update({'stages.0.0.norm1.bias': torch.zeros(3)}),
     r'of another shape: stages.0.0.norm1.bias \(3,\), not \(32,\)$'),
    (lambda s: s.update({'layers.0.weight': torch.zeros(3)}),
     'keys are unknown: layers.0.weight$'),
])
def test_pretrained_refuses_what_does_not_fit(tmp_path, change, message):
    state, arch = released()
    change(state)
    model = build(arch, init_cfg=pretrained(save(state, tmp_path)))
    before = model.stem[0].weight.clone()
    with pytest.raises(ValueError, match=message):
        model.init_weights()
    assert torch.equal(model.stem[0].weight, before)
