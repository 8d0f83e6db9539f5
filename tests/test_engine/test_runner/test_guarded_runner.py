"""What the tools promise of any of MMEngine's runners."""

import errno
import logging
import os
from itertools import count

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, LOOPS, METRICS, MODELS, RUNNERS
from mmengine.runner import BaseLoop, FlexibleRunner, Runner
from torch import nn

from biformer_mm.engine.runner.guarded_runner import GuardedRun, guarded
from biformer_mm.utils.errors import UsageError

NUMBERS = count()


@MODELS.register_module()
class LinearModel(BaseModel):
    def __init__(self, out=1):
        super().__init__()
        self.layer = nn.Linear(2, out)

    def forward(self, inputs, data_samples=None, mode='loss'):
        out = self.layer(torch.stack(inputs))
        return dict(loss=out.sum()) if mode == 'loss' else list(out)


@METRICS.register_module()
class CountMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(count=len(results))


@HOOKS.register_module()
class FailHook(Hook):
    """Fails in an event; with a number, as the operating system does."""

    def __init__(self, event, number=None):

        def fail(runner, *args, **kwargs):
            if number is None:
                raise ValueError('x')
            raise OSError(number, os.strerror(number), 'scalars.json')

        setattr(self, event, fail)


def config(tmp_path, runner_type, **kwargs):
    loader = dict(
        dataset=[dict(inputs=torch.ones(2)) for _ in range(4)],
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=2,
    )
    cfg = Config(
        dict(
            model=dict(type='LinearModel'),
            work_dir=str(tmp_path / 'work'),
            train_dataloader=loader,
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=[dict(type='MultiStepLR', milestones=[1])],
            test_dataloader=loader,
            test_cfg=dict(),
            test_evaluator=dict(type='CountMetric'),
            # MMEngine keeps a logger for each name, which must be another.
            experiment_name=f'run_{next(NUMBERS)}',
            launcher='none',
            default_scope='mmengine',
            env_cfg=dict(),
        ),
        filename=__file__,
    )
    cfg.merge_from_dict(kwargs)
    return guarded(runner_type).from_cfg(cfg)


RUNNER_TYPES = pytest.mark.parametrize('runner_type', ['Runner', 'FlexibleRunner'])


@RUNNER_TYPES
def test_trains_resumes_and_tests(runner_type, tmp_path):
    runner = config(tmp_path, runner_type)
    assert isinstance(runner, dict(Runner=Runner, FlexibleRunner=FlexibleRunner)[runner_type])
    runner.train()
    checkpoint = str(tmp_path / 'work' / 'epoch_1.pth')
    runner = config(
        tmp_path, runner_type, load_from=checkpoint, resume=True, train_cfg=dict(max_epochs=2)
    )
    runner.train()
    assert runner.iter == 4
    runner = config(tmp_path, runner_type, load_from=checkpoint)
    assert runner.test() == dict(count=4)  # with `test_cfg = dict()`


def resume(tmp_path, runner_type, **changes):
    """Resume a training of two epochs after the first; return its runner and the log's lines."""
    config(tmp_path, runner_type, **{'train_cfg.max_epochs': 2}).train()
    checkpoint = str(tmp_path / 'work' / 'epoch_1.pth')
    changes = {'train_cfg.max_epochs': 2, **changes}
    runner = config(tmp_path, runner_type, load_from=checkpoint, resume=True, **changes)
    lines = []
    runner.logger.info = lines.append
    runner.train()
    return runner, lines


@RUNNER_TYPES
def test_a_resumed_run_follows_its_config(runner_type, tmp_path):
    scheduler = dict(type='MultiStepLR', milestones=[2])
    _, lines = resume(tmp_path, runner_type, param_scheduler=[scheduler])
    assert (
        "rate 0.01 -> 0.1: the config's schedule differs from the "
        "checkpoint's and holds from here on"
    ) in lines


@LOOPS.register_module()
class LoopWithoutMetrics(BaseLoop):
    """A test that evaluates nothing."""

    def __init__(self, runner, dataloader, evaluator):
        super().__init__(runner, dataloader)

    def run(self):
        for name in ('before_test', 'before_test_epoch', 'after_test_epoch', 'after_test'):
            self.runner.call_hook(name)


@RUNNER_TYPES
def test_loops_of_others_may_give_no_metrics(runner_type, tmp_path):
    config(tmp_path, runner_type).train()
    checkpoint = str(tmp_path / 'work' / 'epoch_1.pth')
    test = dict(type='LoopWithoutMetrics')
    assert config(tmp_path, runner_type, load_from=checkpoint, test_cfg=test).test() is None


@RUNNER_TYPES
def test_a_resumed_run_has_the_optimiser_settings_of_its_config(runner_type, tmp_path):
    changed = {'optim_wrapper.optimizer.weight_decay': 0.5}
    runner, lines = resume(tmp_path, runner_type, **changed)
    assert any(line.startswith('weight_decay 0 -> 0.5: ') for line in lines)
    assert runner.optim_wrapper.param_groups[0]['weight_decay'] == 0.5
    # The schedule has come to its milestone after the first epoch.
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.01)


@RUNNER_TYPES
def test_a_rate_that_nothing_schedules_is_the_configs(runner_type, tmp_path):
    config(tmp_path, runner_type, **{'train_cfg.max_epochs': 2}).train()
    runner = config(
        tmp_path,
        runner_type,
        load_from=str(tmp_path / 'work' / 'epoch_1.pth'),
        resume=True,
        train_cfg=dict(max_epochs=2),
        param_scheduler=None,
        **{'optim_wrapper.optimizer.lr': 0.3, 'default_hooks.checkpoint': None},
    )
    runner.train()
    assert runner.optim_wrapper.param_groups[0]['lr'] == 0.3


@RUNNER_TYPES
def test_a_training_must_load_something(runner_type, tmp_path):
    path = str(tmp_path / 'other.pth')
    torch.save(dict(state_dict={'other.bias': torch.zeros(3)}), path)
    with pytest.raises(UsageError, match='other.pth: a name and shape must fit .* nothing-loaded'):
        config(tmp_path, runner_type, load_from=path).train()
    assert os.listdir(tmp_path) == ['other.pth']
    torch.save(dict(state_dict=dict(LinearModel().state_dict(), extra=torch.zeros(1))), path)
    runner = config(tmp_path, runner_type, load_from=path)
    lines = []
    runner.logger.info = lines.append
    runner.train()
    assert f'{path}: 2 of 2 tensors of the model loaded' in lines


@RUNNER_TYPES
def test_a_training_with_averages_is_resumed_with_them(runner_type, tmp_path):
    averages = {'custom_hooks': [dict(type='EMAHook', momentum=0.5)], 'train_cfg.max_epochs': 2}
    config(tmp_path, runner_type, **averages).train()
    last = dict(load_from=str(tmp_path / 'work' / 'epoch_1.pth'), resume=True)
    with pytest.raises(UsageError, match='epoch_1.pth: its weights are the averages .* ema'):
        config(tmp_path, runner_type, **{'train_cfg.max_epochs': 2}, **last).train()
    # FlexibleRunner itself cannot: it loads before the hook has its copy.
    if runner_type == 'Runner':
        config(tmp_path, runner_type, **averages, **last).train()


@RUNNER_TYPES
def test_a_run_with_nothing_left_says_so(runner_type, tmp_path):
    config(tmp_path, runner_type, **{'train_cfg.max_epochs': 2}).train()
    last = dict(load_from=str(tmp_path / 'work' / 'epoch_2.pth'), resume=True)
    runner = config(tmp_path, runner_type, **{'train_cfg.max_epochs': 2}, **last)
    lines = []
    runner.logger.warning = lines.append
    runner.train()
    assert ('Nothing is left to train: 2 epochs are done, and train_cfg.max_epochs is 2.') in lines
    with pytest.raises(
        UsageError,
        match='nothing is left to train: 2 epochs are done, and train_cfg.max_epochs is 1',
    ):
        config(tmp_path, runner_type, **last).train()
    loop = dict(train_cfg=dict(_delete_=True, by_epoch=False, max_iters=3))
    with pytest.raises(UsageError, match='4 iters are done, .*_iters is 3'):
        config(tmp_path, runner_type, **last, **loop).train()


@RUNNER_TYPES
@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: s.pop('layer.bias'), 'missing keys .* layer.bias'),
        (lambda s: s.update(extra=torch.zeros(1)), 'unexpected key .* extra'),
        (lambda s: s.update({'layer.bias': torch.zeros(3)}), 'size mismatch for layer.bias'),
    ],
)
def test_tests_refuse_weights_that_do_not_fit(runner_type, change, message, tmp_path):
    state = LinearModel().state_dict()
    change(state)
    path = str(tmp_path / 'other.pth')
    torch.save(dict(state_dict=state), path)
    with pytest.raises(UsageError, match=f"other.pth does not fit the config's model: .*{message}"):
        config(tmp_path, runner_type, load_from=path).test()
    # Training starts from what fits.
    if 'size' not in message:
        config(tmp_path, runner_type, load_from=path).train()


@RUNNER_TYPES
@pytest.mark.parametrize(
    'change',
    [
        dict(model=dict(type='NoSuchModel')),
        {'model.no_such': 1},
        dict(train_cfg=None),
        {'train_dataloader.sampler.type': 'NoSuchSampler'},
        {'optim_wrapper.optimizer.type': 'NoSuchOptimizer'},
        dict(load_from='nowhere.pth'),
        dict(custom_hooks=[dict(type='FailHook', event='before_run')]),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(runner_type, change, tmp_path):
    with pytest.raises(UsageError):
        config(tmp_path, runner_type, **change).train()
    assert os.listdir(tmp_path) == []


@RUNNER_TYPES
def test_errors_of_the_training_itself_are_not_the_configs(runner_type, tmp_path):
    hook = dict(type='FailHook', event='before_train')
    with pytest.raises(ValueError, match='^x$'):
        config(tmp_path, runner_type, custom_hooks=[hook]).train()
    assert os.path.isdir(tmp_path / 'work')


@RUNNER_TYPES
@pytest.mark.parametrize(
    'number, kind',
    [(errno.ENOSPC, UsageError), (errno.EDQUOT, UsageError), (errno.ENOENT, FileNotFoundError)],
)
def test_a_full_disk_is_named_and_nothing_else(runner_type, number, kind, tmp_path):
    hook = dict(type='FailHook', event='before_train_epoch', number=number)
    with pytest.raises(
        kind,
        match='^scalars.json cannot be written .*; the last whole checkpoint is none; free space'
        if kind is UsageError
        else None,
    ):
        config(tmp_path, runner_type, custom_hooks=[hook]).train()


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device of Linux')
def test_a_line_of_the_log_that_has_no_room_ends_the_run(tmp_path, capfd):
    runner = config(tmp_path, 'Runner')
    handler = logging.FileHandler('/dev/full')
    runner.logger.addHandler(handler)
    with pytest.raises(UsageError) as error:
        runner.train()
    runner.logger.removeHandler(handler)
    assert str(error.value) == (
        f'{runner.work_dir} cannot be written (No space left on device); the '
        'last whole checkpoint is none; free space and go on with --resume'
    )
    with pytest.raises(OSError):
        handler.close()  # what is still to be written
    assert 'Logging error' not in capfd.readouterr().err


def test_any_runner_is_guarded():

    @RUNNERS.register_module()
    class MyRunner(Runner):
        pass

    for kind in ('MyRunner', MyRunner):
        assert guarded(kind).__mro__[1:3] == (GuardedRun, MyRunner)
    with pytest.raises(ValueError, match='NoSuch is not the name of a runner'):
        guarded('NoSuch')
