"""A resumed run follows its config, wherever the checkpoint comes from."""

import copy

import pytest
import torch
from mmengine.optim import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolyLR,
    ReduceOnPlateauLR,
    StepLR,
)

from biformer_mm.checkpoint import read_checkpoint
from biformer_mm.engine.runner.schedule import PlannedSchedule

LENGTH = 5  # iterations of an epoch


class Run:
    """Two groups of parameters and their schedulers, by iteration."""

    def __init__(self, *builders):
        params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        self.optimizer = torch.optim.SGD(
            [dict(params=params[:1], lr=1.0), dict(params=params[1:], lr=0.5)], lr=1.0
        )
        self.schedulers = [build(self.optimizer) for build in builders]

    def step(self, iterations):
        for iteration in range(1, iterations + 1):
            self.optimizer.step()
            for by_epoch in [False, *[True] * (iteration % LENGTH == 0)]:
                for scheduler in self.schedulers:
                    if scheduler.by_epoch == by_epoch:
                        scheduler.step()
        return self

    @property
    def rates(self):
        return [group['lr'] for group in self.optimizer.param_groups]

    def saved(self):
        return copy.deepcopy(
            (self.optimizer.state_dict(), [scheduler.state_dict() for scheduler in self.schedulers])
        )


def resume(run, saved, iterations):
    """Resume as MMEngine does, then follow the plan; return what is said."""
    optimizer, states = saved
    planned = PlannedSchedule(run.schedulers)
    run.optimizer.load_state_dict(optimizer)
    for scheduler, state in zip(run.schedulers, states or []):
        scheduler.load_state_dict(state)
    return planned.follow(states, iterations, iterations // LENGTH, LENGTH)


def warm_up(optimizer):
    return LinearLR(optimizer, 0.1, end=3, by_epoch=False)


def cosine(epochs):
    return lambda optimizer: CosineAnnealingLR(
        optimizer, T_max=epochs * LENGTH, begin=3, by_epoch=False
    )


def steps(*milestones):
    return lambda optimizer: MultiStepLR(optimizer, milestones)


def poly(optimizer):
    return PolyLR(optimizer, end=30, by_epoch=False)


PLANS = {
    'longer cosine': ([warm_up, cosine(1)], [warm_up, cosine(3)]),
    'later milestone': ([steps(1)], [steps(2)]),
    'milestones by epoch after warm-up': ([warm_up, steps(1)], [warm_up, steps(2)]),
    'another kind': ([cosine(1)], [poly]),
    'one more': ([cosine(3)], [cosine(3), warm_up]),
    'one less': ([cosine(3), warm_up], [cosine(3)]),
}


@pytest.mark.parametrize('old, new', PLANS.values(), ids=list(PLANS))
@pytest.mark.parametrize('iterations', [LENGTH, 2 * LENGTH + 2])
def test_rates_are_those_of_a_run_that_had_the_plan_from_the_start(old, new, iterations):
    saved = Run(*old).step(iterations).saved()
    run, whole = Run(*new), Run(*new).step(iterations)
    line = resume(run, saved, iterations)
    assert run.rates == whole.rates
    before = saved[0]['param_groups'][0]['lr']
    assert line == (
        f"rate {before:.3g} -> {whole.rates[0]:.3g}: the config's "
        "schedule differs from the checkpoint's and holds from "
        'here on'
    )
    run.step(2 * LENGTH)
    whole = Run(*new).step(iterations)
    whole.step(2 * LENGTH)
    assert run.rates == whole.rates


@pytest.mark.parametrize('plan', [new for _, new in PLANS.values()], ids=list(PLANS))
def test_the_same_plan_changes_nothing(plan):
    saved = Run(*plan).step(7).saved()
    run = Run(*plan)
    assert resume(run, saved, 7) is None
    assert run.saved() == saved


@pytest.mark.parametrize(
    'kind, options',
    [
        (ConstantLR, dict()),
        (CosineAnnealingLR, dict(T_max=9)),
        (ExponentialLR, dict(gamma=0.9)),
        (LinearLR, dict()),
        (MultiStepLR, dict(milestones=[2, 3])),
        (OneCycleLR, dict(eta_max=1.0, total_steps=9)),
        (PolyLR, dict(end=9)),
        (ReduceOnPlateauLR, dict(monitor='loss')),
        (StepLR, dict(step_size=2)),
    ],
)
def test_a_plan_read_from_a_file_is_the_same(kind, options, tmp_path):

    def build(optimizer):
        return kind(optimizer, **options)

    path = str(tmp_path / 'last.pth')
    optimizer, states = Run(build).step(LENGTH).saved()
    torch.save(dict(optimizer=optimizer, param_schedulers=states), path)
    # One of MMEngine's schedulers keeps a function among its state.
    content = read_checkpoint(path, trust=kind is OneCycleLR)
    saved = content['optimizer'], content['param_schedulers']
    assert resume(Run(build), saved, LENGTH) is None


def test_a_checkpoint_without_a_schedule():
    optimizer, _ = Run(cosine(3)).step(7).saved()
    run = Run(cosine(3))
    assert 'rate' in resume(run, (optimizer, None), 7)
    assert run.rates == Run(cosine(3)).step(7).rates


def test_another_rate_is_another_schedule():
    saved = Run(steps(1)).step(LENGTH).saved()
    run = Run()
    for group in run.optimizer.param_groups:
        group['lr'] *= 3
    run.schedulers = [steps(1)(run.optimizer)]
    assert resume(run, saved, LENGTH).startswith('rate 0.1 -> 0.3: ')
    assert run.rates == pytest.approx([0.3, 0.15])


def test_epochs_of_another_length():
    """Twice the processes: half the iterations in each epoch."""
    saved = Run(warm_up, steps(1)).step(4 * LENGTH).saved()
    run = Run(warm_up, steps(3))
    planned = PlannedSchedule(run.schedulers)
    planned.follow(saved[1], 4 * LENGTH, 4, LENGTH // 2)
    assert run.rates == Run(warm_up, steps(3)).step(4 * LENGTH).rates


def plateau(patience):
    return lambda optimizer: ReduceOnPlateauLR(
        optimizer, monitor='loss', rule='less', patience=patience
    )


def test_what_waits_for_a_metric_keeps_what_it_has_seen():
    run = Run(plateau(0))
    (scheduler,) = run.schedulers
    run.step(LENGTH)
    for loss in (1.0, 1.0, 1.0):
        scheduler.step(dict(loss=loss))
    saved = run.saved()
    assert run.rates == pytest.approx([0.01, 0.005])
    assert resume(Run(plateau(0)), saved, LENGTH) is None
    run = Run(plateau(4))
    assert resume(run, saved, LENGTH).startswith('rate 0.01 -> 0.01: ')
    (scheduler,) = run.schedulers
    assert scheduler.patience == 4 and scheduler.best == 1.0
    assert run.rates == pytest.approx([0.01, 0.005])


def test_without_schedulers_there_is_nothing_to_follow():
    assert PlannedSchedule(None).follow([], 3, 0, LENGTH) is None
    raw = [dict(type='CosineAnnealingLR')]  # of a run that only tests
    assert PlannedSchedule(raw).follow(None, 3, 0, LENGTH) is None
