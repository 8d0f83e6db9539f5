import math

import pytest
from rule_checks import CLASSIFIER, SEGMENTOR, assert_one_line, load, problems

from biformer_mm.engine.config_rules import check_config
from biformer_mm.engine.config_rules.schedules import _simulate, check_rates, counts_both

ITERATIONS = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=200, val_interval=200)
EPOCHS = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=100)


def _check(loop, *schedulers, name=SEGMENTOR):
    return problems(name, {'train_cfg': loop, 'param_scheduler': list(schedulers)})


@pytest.mark.parametrize(
    'loop',
    [ITERATIONS, dict(_delete_=True, by_epoch=False, max_iters=200)],
    ids=['by type', 'by flag'],
)
def test_a_schedule_by_epoch_in_a_training_by_iteration_is_found(loop):
    [problem] = _check(
        loop, dict(type='PolyLR', by_epoch=False), dict(type='LinearLR', start_factor=1e-3, end=1)
    )
    assert (problem.kind, problem.file) == ('schedule-units', 'param_scheduler.1.by_epoch')
    assert_one_line(problem)


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='LinearLR', start_factor=1e-3, end=20, by_epoch=False),
        dict(type='ReduceOnPlateauLR', monitor='mIoU'),  # steps after a validation
    ],
)
def test_schedules_of_a_training_by_iteration_are_allowed(scheduler):
    assert not _check(ITERATIONS, scheduler)


def test_a_single_scheduler_need_not_be_in_a_list():
    cfg = load(SEGMENTOR)
    cfg.train_cfg = dict(by_epoch=False, max_iters=200)
    cfg.param_scheduler = dict(type='PolyLR', end=200)
    assert [p.file for p in check_config(cfg, ['train'])] == ['param_scheduler.by_epoch']


@pytest.mark.parametrize(
    ('loop', 'scheduler', 'text'),
    [
        (EPOCHS, dict(type='PolyLR', end=80), 'is 0, or almost, for 21%'),
        (
            EPOCHS,
            dict(type='CosineAnnealingLR', T_max=80, end=80, convert_to_iter_based=True),
            'is 0, or almost, for 20%',
        ),
        (EPOCHS, dict(type='CosineAnnealingLR', T_max=60), 'rises again'),
        (EPOCHS, dict(type='LinearLR', start_factor=0.01, end=500), 'never reaches half'),
        (
            ITERATIONS,
            dict(type='LinearLR', start_factor=0.01, end=1500, by_epoch=False),
            'never reaches half',
        ),
    ],
)
def test_a_schedule_of_another_length_is_warned_of(loop, scheduler, text):
    [problem] = _check(loop, scheduler)
    assert (problem.kind, problem.severity) == ('schedule', 'warning')
    assert text in problem.detail
    assert problem.detail.endswith('=200' if loop is ITERATIONS else '=100')


@pytest.mark.parametrize(
    'schedulers',
    [
        [],  # a constant rate
        [dict(type='MultiStepLR', milestones=[8, 11])],
        [dict(type='MultiStepLR', milestones=[20, 42, 49, 52])],  # YOLACT's, to 1e-4
        [dict(type='PolyLR')],
        [dict(type='CosineAnnealingLR', T_max=100)],
        [dict(type='CosineRestartLR', periods=[50, 50], restart_weights=[1, 1])],
        # the length of an epoch is not known, so neither is that of the warm-up
        [dict(type='LinearLR', start_factor=0.01, end=10**6, by_epoch=False)],
    ],
)
def test_usual_schedules_are_allowed(schedulers):
    assert not _check(EPOCHS, *schedulers)


def test_the_simulated_rates_are_those_of_the_formula():
    cfg = load(CLASSIFIER)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=50)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, end=10, by_epoch=False),
        dict(type='CosineAnnealingLR', T_max=40, begin=10, end=50, by_epoch=False, eta_min=0.1),
    ]
    warm_up = [0.1 + 0.9 * t / 9 for t in range(10)]
    decay = [0.1 + 0.9 * (1 + math.cos(math.pi * t / 40)) / 2 for t in range(40)]
    assert _simulate(cfg, 1.0) == pytest.approx(warm_up + decay)


def test_a_warm_up_by_iteration_needs_the_length_of_an_epoch():
    cfg = load(CLASSIFIER)
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.001, end=500, by_epoch=False),
        dict(type='MultiStepLR', milestones=[2]),
    ]
    assert counts_both(cfg)
    assert list(check_rates(cfg, ['train'])) == []
    assert list(check_rates(cfg, ['train'], epoch_length=1000)) == []
    (problem,) = check_rates(cfg, ['train'], epoch_length=20)
    assert 'never reaches half of optim_wrapper.optimizer.lr' in problem.detail
    del cfg.param_scheduler[0]
    assert not counts_both(cfg)
