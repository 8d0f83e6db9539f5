"""Released names of a backbone, a classifier and a layer."""

import golden
import pytest
import torch

from biformer_mm.checkpoint import CheckpointError, convert_state_dict
from biformer_mm.models import BiFormer


def released():
    """A released backbone's weights and the arch that they fit."""
    state = golden.section(golden.load('backbone_state'), 'state')
    return state, golden.small_arch()[0]


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: dict(model=state, epoch=300),
        lambda state: dict(state_dict=state, meta={}),
        lambda state: {f'module.{k}': v for k, v in state.items()},
    ],
)
def test_takes_any_wrapping_and_changes_nothing(wrap):
    state, arch = released()
    wrapped = wrap(state)
    keys = list(wrapped)
    converted = convert_state_dict(wrapped)
    assert list(wrapped) == keys
    assert set(converted) == set(BiFormer(arch).state_dict())
    stem = converted['stem.0.weight']
    assert stem is state['downsample_layers.0.0.weight']


def test_keeps_our_own_names():
    own = BiFormer(released()[1]).state_dict()
    assert convert_state_dict(own).keys() == own.keys()


def test_reads_the_refactored_layer():
    state = golden.section(golden.load('bra_nchw'), 'state')
    converted = convert_state_dict(state)
    assert set(converted) == {
        f'{layer}.{kind}' for layer in ('qkv', 'proj', 'lce') for kind in ('weight', 'bias')
    }
    assert torch.equal(converted['qkv.weight'], state['qkv_linear.weight'][:, :, 0, 0])
    assert converted['lce.weight'].shape == (64, 1, 5, 5)


def test_lists_unknown_names():
    state, _ = released()
    state['layers.0.weight'] = state['stages.0.0.attn.rpb'] = torch.zeros(1)
    with pytest.raises(
        CheckpointError,
        match=r'2 of its \d+ keys are unknown: layers.0.weight, '
        'stages.0.0.attn.rpb',
    ):
        convert_state_dict(state)


def test_refuses_two_names_of_one_weight():
    state, _ = released()
    state['stages.0.0.attn.proj.bias'] = torch.zeros(32)
    with pytest.raises(
        CheckpointError,
        match="mean 'stages.0.0.attn.proj.bias': 'stages.0.0.attn.wo.bias'"
        " and 'stages.0.0.attn.proj.bias'",
    ):
        convert_state_dict(state)


def test_refuses_what_has_no_tensors():
    with pytest.raises(CheckpointError, match=r"its keys are \['epoch'\]"):
        convert_state_dict(dict(epoch=3))
