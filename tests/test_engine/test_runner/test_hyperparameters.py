import copy

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from biformer_mm.engine.runner.hyperparameters import PlannedHyperparameters


def wrapper(kind=torch.optim.AdamW, **settings):
    model = nn.Linear(2, 1)
    groups = [dict(params=[model.weight]), dict(params=[model.bias], weight_decay=0.0)]
    return OptimWrapper(kind(groups, **settings))


def resumed(saved, planned, scheduled=('lr',)):
    """Load the state of one wrapper into another; return its groups and the line."""
    hyperparameters = PlannedHyperparameters(planned)
    planned.load_state_dict(copy.deepcopy(saved.state_dict()))
    return planned.optimizer.param_groups, hyperparameters.follow(scheduled)


def test_an_unchanged_config_says_nothing():
    settings = dict(lr=0.1, weight_decay=0.05, betas=(0.9, 0.99))
    groups, line = resumed(wrapper(**settings), wrapper(**{**settings, 'betas': [0.9, 0.99]}))
    assert line is None
    assert [group['weight_decay'] for group in groups] == [0.05, 0.0]


def test_the_config_holds_in_each_group():
    saved = wrapper(lr=0.1, weight_decay=0.05, betas=(0.9, 0.99))
    groups, line = resumed(saved, wrapper(lr=0.2, weight_decay=0.5, betas=(0.8, 0.99)))
    assert [group['weight_decay'] for group in groups] == [0.5, 0.0]
    assert [group['betas'] for group in groups] == [(0.8, 0.99)] * 2
    assert [group['lr'] for group in groups] == [0.1, 0.1]  # of the schedule
    assert line.count('betas (0.9, 0.99) -> (0.8, 0.99)') == 1
    assert 'weight_decay 0.05 -> 0.5' in line
    assert 'lr' not in line


def test_a_rate_without_schedule_is_the_configs():
    groups, line = resumed(wrapper(lr=0.1), wrapper(lr=0.2), scheduled=())
    assert [group['lr'] for group in groups] == [0.2, 0.2]
    assert line.startswith("lr 0.1 -> 0.2: the config's optimiser settings")


@pytest.mark.parametrize(
    'kind, name, saved, planned',
    [(torch.optim.SGD, 'momentum', 0.9, 0.5), (torch.optim.Adam, 'betas', (0.9, 0.9), (0.5, 0.9))],
)
def test_a_scheduled_momentum_stays(kind, name, saved, planned):
    ours = wrapper(kind, lr=0.1, **{name: planned})
    groups, line = resumed(
        wrapper(kind, lr=0.1, **{name: saved}), ours, scheduled=('lr', 'momentum')
    )
    assert groups[0][name] == saved
    assert line is None


class Counting(torch.optim.SGD):
    """Notes its progress in its groups, as optimisers without rates do."""

    def __init__(self, params, lr, estimate=1.0):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group.update(estimate=estimate, progress=0)


def test_progress_of_an_optimiser_stays():
    saved = wrapper(Counting, lr=0.1, estimate=3.0)
    for group in saved.param_groups:
        group['progress'] = 7
    groups, line = resumed(saved, wrapper(Counting, lr=0.1))
    assert [group['progress'] for group in groups] == [7, 7]
    assert line.startswith('estimate 3.0 -> 1.0:')


def test_several_and_unknown_wrappers():
    ours = OptimWrapperDict(a=wrapper(lr=0.1), b=wrapper(lr=0.1, weight_decay=0.5))
    planned = PlannedHyperparameters(ours)
    for one in ours.values():
        one.load_state_dict(wrapper(lr=0.1, weight_decay=0.05).state_dict())
    assert planned.follow(['lr']).startswith('weight_decay 0.05 -> 0.01, weight_decay 0.05 -> 0.5:')
    assert PlannedHyperparameters(None).follow([]) is None
