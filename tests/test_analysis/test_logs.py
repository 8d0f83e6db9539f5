"""Logs as MMEngine writes them, of runs that were interrupted and resumed."""

import json
import time

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from biformer_mm.analysis.logs import read_run
from biformer_mm.utils.errors import UsageError


def iteration():
    return MessageHub.get_current_instance().get_info('iter') + 1


class Toy(BaseModel):
    """Its loss tells the session and the iteration."""

    def __init__(self, session):
        super().__init__()
        self.session = session
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, mode='tensor'):
        if mode == 'loss':
            said = 1000 * self.session + iteration()
            return dict(loss=0 * self.weight.sum() + said)
        return [x]


class Score(BaseMetric):
    """Tells the iterations done."""

    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=iteration())


class Kill(Hook):
    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.at:
            raise KeyboardInterrupt


# Ten iterations in an epoch; records, checkpoints and validations at
# different times.
LOOPS = {
    'epoch': dict(
        train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
        logger=dict(interval=4),
        checkpoint=dict(interval=2),
    ),
    'iteration': dict(
        train_cfg=dict(by_epoch=False, max_iters=40, val_interval=7),
        logger=dict(interval=4, log_metric_by_epoch=False),
        checkpoint=dict(interval=15, by_epoch=False),
    ),
    'iteration, metrics by epoch': dict(
        train_cfg=dict(by_epoch=False, max_iters=40, val_interval=8),
        logger=dict(interval=4),
        checkpoint=dict(interval=15, by_epoch=False),
    ),
}


def train(work_dir, loop, session, kill_at=None, resume=False):
    if session > 1:
        time.sleep(1)  # a time stamp has no more than seconds
    loader = DataLoader([dict(x=torch.zeros(1))] * 10, batch_size=1)
    settings = LOOPS[loop]
    runner = Runner(
        Toy(session),
        str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=Evaluator([Score()]),
        val_cfg=dict(),
        train_cfg=settings['train_cfg'],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', **settings['logger']),
            checkpoint=dict(type='CheckpointHook', **settings['checkpoint']),
        ),
        custom_hooks=[Kill(kill_at)],
        log_processor=dict(window_size=1, by_epoch=loop == 'epoch'),
        resume=resume,
        default_scope='mmengine',
        experiment_name=f'{work_dir.name}_{loop}_{session}',
    )
    if kill_at:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()


def read(folder):
    warnings = []
    run = read_run(str(folder), warnings.append)
    return run, warnings


@pytest.mark.parametrize(
    'loop, resumed, logged, validated',
    [
        ('epoch', 20, [4, 8, 14, 18, 24, 28, 34, 38], [10, 20, 30, 40]),
        ('iteration', 15, range(4, 41, 4), [7, 14, 21, 28, 35, 40]),
        ('iteration, metrics by epoch', 15, range(4, 41, 4), [8, 16, 24, 32, 40]),
    ],
)
def test_a_resumed_run_is_joined(loop, resumed, logged, validated, tmp_path):
    """Every iteration is told by the session that went on to the end."""
    train(tmp_path, loop, session=1, kill_at=29)
    train(tmp_path, loop, session=2, resume=True)
    run, warnings = read(tmp_path)
    assert [session.start for session in run.sessions] == [0, resumed]
    assert run.training['loss'] == {i: (1000 if i <= resumed else 2000) + i for i in logged}
    assert run.validation['toy/score'] == {i: i for i in validated}
    assert set(run.training['lr']) == set(logged)
    assert 'memory' in run.training or not torch.cuda.is_available()
    assert not warnings


def test_a_run_that_starts_anew_replaces_the_earlier_one(tmp_path):
    train(tmp_path, 'epoch', session=1, kill_at=29)
    train(tmp_path, 'epoch', session=2, kill_at=15)
    run, _ = read(tmp_path)
    assert run.training['loss'] == {i: 2000 + i for i in (4, 8, 14)}
    assert run.validation['toy/score'] == {10: 10}

    first = sorted(tmp_path.glob('*/vis_data'))[0].parent
    alone, _ = read(first)  # as a run of its own
    assert max(alone.training['loss'].items()) == (28, 1028)


def write(work_dir, name, records, text=None):
    """A session of which there is no more than this."""
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (folder / f'{name}.json').write_text(''.join(json.dumps(record) + '\n' for record in records))
    if text is not None:
        (folder.parent / f'{name}.log').write_text(text)
    return folder / f'{name}.json'


def losses(session, iterations):
    return [dict(loss=1000.0 * session + i, epoch=1, iter=i, step=i) for i in iterations]


def test_without_text_logs_the_first_record_tells_where_it_went_on(tmp_path):
    write(tmp_path, '1', losses(1, [10, 20, 30]) + [dict(mIoU=1.0, step=3)])
    write(tmp_path, '2', losses(2, [30, 40]) + [dict(mIoU=2.0, step=4)])
    run, _ = read(tmp_path)
    assert run.training['loss'] == {10: 1010, 20: 1020, 30: 2030, 40: 2040}
    # Of how many iterations the epochs are is not known either.
    assert run.validation['mIoU'] == {40: 2}


def test_points_between_resumption_and_its_first_record_are_left_out(tmp_path):
    """The interval of logging was raised from 10 to 50."""
    write(tmp_path, '1', losses(1, range(10, 100, 10)))
    write(tmp_path, '2', losses(2, [100, 150]), 'resumed epoch: 1, iter: 60\n')
    run, _ = read(tmp_path)
    assert sorted(run.training['loss']) == [10, 20, 30, 40, 50, 60, 100, 150]


def test_a_cut_off_line_is_left_out_with_a_warning(tmp_path):
    path = write(tmp_path, '1', losses(1, [10, 20, 30]))
    path.write_text(path.read_text()[:-25])
    run, warnings = read(tmp_path)
    assert sorted(run.training['loss']) == [10, 20]
    assert len(warnings) == 1
    assert f'line 3 of {path}' in warnings[0]


@pytest.mark.parametrize('line', ['[' * 10**5, '\0' * 9, '[1]', '{"iter": "5"}'])
def test_a_line_of_something_else_is_left_out_with_a_warning(tmp_path, line):
    """Deep brackets, too: they fail in the parser, as no syntax error."""
    path = write(tmp_path, '1', losses(1, [10, 20]))
    path.write_text(f'{line}\n{path.read_text()}')
    run, warnings = read(tmp_path)
    assert sorted(run.training['loss']) == [10, 20]
    assert len(warnings) == 1
    assert f'line 1 of {path}' in warnings[0]


def test_a_session_without_records_changes_nothing(tmp_path):
    write(tmp_path, '1', losses(1, [10, 20]))
    write(tmp_path, '2', [])
    (tmp_path / '3' / 'vis_data').mkdir(parents=True)  # as tools/test.py does
    run, _ = read(tmp_path)
    assert sorted(run.training['loss']) == [10, 20]
    assert len(run.sessions) == 1


def test_scalars_json_stands_in(tmp_path):
    path = write(tmp_path, '1', losses(1, [10, 20]))
    path.rename(path.with_name('scalars.json'))
    run, _ = read(tmp_path)
    assert sorted(run.training['loss']) == [10, 20]


def test_names_with_and_without_hierarchy_are_the_same(tmp_path):
    write(
        tmp_path,
        '1',
        [
            {'train/loss': 3.0, 'train/lr': 0.1, 'memory': 5, 'iter': 1, 'step': 1},
            {'val/coco/bbox_mAP': 0.5, 'val/loss': 4.0, 'step': 1},
        ],
    )
    run, _ = read(tmp_path)
    assert run.training == dict(loss={1: 3}, lr={1: 0.1}, memory={1: 5})
    assert run.validation == {'coco/bbox_mAP': {1: 0.5}, 'loss': {1: 4}}


def test_what_is_no_number_is_left_out(tmp_path):
    write(tmp_path, '1', [dict(loss=float('nan'), names=['a'], ok=True, iter=1, step=1)])
    run, _ = read(tmp_path)
    assert list(run.training) == ['loss']


def test_a_foreign_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r'there is no folder .*/none'):
        read(tmp_path / 'none')
    (tmp_path / 'vis_data').mkdir()
    (tmp_path / 'vis_data' / 'scalars.json').write_text('[1, 2]\n')
    with pytest.raises(UsageError, match='must hold the JSON logs'):
        read(tmp_path)
