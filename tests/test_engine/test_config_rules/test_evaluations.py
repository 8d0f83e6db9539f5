import pytest
from rule_checks import CLASSIFIER, DETECTOR, MASKS, assert_one_line, found, problems

FILTER = {'val_dataloader.dataset.filter_cfg': dict(filter_empty_gt=True, min_size=32)}
TEST_MODE = 'val_dataloader.dataset.test_mode'


@pytest.mark.parametrize(
    ('name', 'changes', 'kind', 'key'),
    [
        (DETECTOR, {'metric': 'segm'}, 'evaluator-task', 'metric'),
        (DETECTOR, {'metric': ['bbox', 'segm']}, 'evaluator-task', 'metric'),
        (DETECTOR, {'proposal_nums': (1, 10, 300)}, 'evaluator-limits', 'proposal_nums'),
        (DETECTOR, {'proposal_nums': (100,)}, 'evaluator-limits', 'proposal_nums'),
        (CLASSIFIER, {'topk': (1, 5)}, 'topk', 'topk'),
        (CLASSIFIER, {'topk': 5}, 'topk', 'topk'),
    ],
)
@pytest.mark.parametrize('split', ['val', 'test'])
def test_a_metric_that_fails_or_means_nothing_is_found(name, changes, kind, key, split):
    changes = {f'{split}_evaluator.{k}': v for k, v in changes.items()}
    [problem] = problems(name, changes, [split])
    assert (problem.kind, problem.file) == (kind, f'{split}_evaluator.{key}')
    assert_one_line(problem)


def test_a_metric_in_a_list_is_named_as_the_command_line_does():
    metrics = [dict(type='Accuracy'), dict(type='Accuracy', topk=(1, 5))]
    assert found(CLASSIFIER, {'val_evaluator': metrics}) == {('topk', 'val_evaluator.1.topk')}


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        (MASKS, {'val_evaluator.metric': ['bbox', 'segm']}),
        (DETECTOR, {'val_evaluator.proposal_nums': (100, 1, 10)}),
        (
            DETECTOR,
            {'val_evaluator.metric': 'proposal', 'val_evaluator.proposal_nums': (1, 10, 300)},
        ),
        (DETECTOR, {'val_evaluator.metric': 'segm', 'model.bbox_head.type': 'MyInstanceHead'}),
        (DETECTOR, {'val_evaluator.use_mp_eval': True, 'val_evaluator.proposal_nums': (300,)}),
        (CLASSIFIER, {'val_evaluator.topk': (1, 4)}),
        (CLASSIFIER, {'train_dataloader.drop_last': True}),
        (CLASSIFIER, {'val_dataloader.drop_last': True, 'val_dataloader.batch_size': 1}),
        (CLASSIFIER, {'val_dataloader.dataset.indices': 8}),  # promised
        (DETECTOR, {**FILTER}),
        (DETECTOR, {TEST_MODE: False}),  # without a filter, nothing is left out
    ],
)
def test_sound_evaluations_are_allowed(name, changes):
    assert not problems(name, changes)


def test_a_filter_of_the_evaluation_is_found():
    [problem] = problems(DETECTOR, {**FILTER, TEST_MODE: False})
    assert (problem.kind, problem.file) == ('test-mode', TEST_MODE)
    assert 'filter_empty_gt, min_size' in problem.detail
    assert_one_line(problem)


@pytest.mark.parametrize('key', ['drop_last', 'num_batch_per_epoch'])
def test_an_evaluation_of_a_part_is_found(key):
    changes = {f'test_dataloader.{key}': 1}
    assert found(CLASSIFIER, changes, ['test']) == {('evaluated-part', f'test_dataloader.{key}')}
    assert not problems(CLASSIFIER, changes)


def test_an_evaluation_that_repeats_images_is_found():
    inner = dict(type='CustomDataset', data_prefix='val', pipeline=[])
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    changes = {
        'val_dataloader.dataset': dict(
            _delete_=True, type='ConcatDataset', datasets=[inner, repeated]
        )
    }
    assert found(CLASSIFIER, changes) == {
        ('evaluated-part', 'val_dataloader.dataset.datasets.1.type')
    }


def test_a_validation_after_the_end_is_warned_of():
    changes = {'train_cfg.val_begin': 17, 'default_hooks.checkpoint.save_best': 'auto'}
    [problem] = problems(DETECTOR, changes)
    assert (problem.kind, problem.severity) == ('evaluation-skipped', 'warning')
    assert 'save_best never saves' in problem.detail
    assert not problems(DETECTOR, {'train_cfg.val_begin': 16})
