"""Extend MMEngine's runners by what the tools promise."""

import errno
import logging
from contextlib import contextmanager
from typing import Any, Collection, Iterator, Optional, Type

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from biformer_mm.datasets.checks.facts import seeing_annotations
from biformer_mm.datasets.checks.guard import DataError, guard_data, naming_sources
from biformer_mm.utils.errors import UsageError, explained

from ..hooks.preemption_hook import protect_workers
from ..hooks.whole_checkpoint_hook import find_whole_checkpoint
from .checkpoint_rules import noting_missing, shapes_of
from .hyperparameters import PlannedHyperparameters
from .run_rules import RunRules
from .schedule import PlannedSchedule
from .traces import Traces
from .unused_parameters import naming_unused_parameters

_FULL = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC))
_STARTS = ('before_train', 'before_val', 'before_test')
_ENDS = dict(after_val_epoch='val', after_test_epoch='test')


class GuardedRun:
    """A mixin for MMEngine's runners: all that differs in runs of the tools.

    - An error before the first iteration becomes a :class:`UsageError`, and a
      run of one process leaves nothing on disk.
    - Data sets name the file that they fail on. Data workers ignore the
      signals that end a run.
    - Data sets, evaluators and checkpoints that do not fit each other are
      refused, but for what ``allowed`` names.
    - Tests refuse weights that do not fit the model.
    - A resumed run follows the schedule and optimiser settings of its config.
    - A training whose disk is full ends with a one-line error.

    Put it before the runner in the base classes.

    Attributes:
        allowed: Rules about data that only warn, of
            :data:`biformer_mm.datasets.checks.KINDS`.
    """

    allowed: Collection[str] = ()

    def __init__(self, *args: Any, cfg: Config, **kwargs: Any) -> None:
        self._traces = Traces(cfg)
        self._started = self._tests = False
        self._checkpoint: dict = {}
        self._split = ''
        self._name = cfg.filename
        self._alone = cfg.get('launcher', 'none') == 'none'
        with self.setting_up():
            super().__init__(*args, cfg=cfg, **kwargs)
        self._rules = RunRules(self.cfg, self.allowed, self.logger)

    @contextmanager
    def setting_up(self) -> Iterator[None]:
        """Blame the config for what fails before the first iteration.

        Raises:
            UsageError: In place of any other error until then.
        """
        try:
            yield
        except Exception:
            if self._started:
                raise
            if self._alone:
                self._traces.remove()
            with explained(
                f'{self._name} must be what a run can use', 'change it, or --cfg-options'
            ):
                raise

    def train(self) -> nn.Module:
        """Train as MMEngine does.

        Raises:
            UsageError: The run cannot be set up, the disk is full, or a
                distributed run leaves parameters unused.
        """
        unused = naming_unused_parameters(lambda: self.model)
        with self.setting_up(), self._naming_full_disk(), unused:
            return super().train()

    def test(self) -> dict:
        """Test as MMEngine does.

        Raises:
            UsageError: The run cannot be set up, or weights do not fit.
        """
        self._tests = True
        with self.setting_up():
            return super().test()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks, and note the start of the run and the loaded checkpoint."""
        if fn_name in _STARTS:
            self._started = True
        elif fn_name == 'after_load_checkpoint':
            checkpoint = kwargs['checkpoint']
            self._checkpoint = {key: checkpoint.get(key) for key in ('meta', 'param_schedulers')}
            self._checkpoint['averaged'] = 'ema_state_dict' in checkpoint
            self._checkpoint['shapes'] = shapes_of(checkpoint)
        super().call_hook(fn_name, **kwargs)
        if fn_name in _ENDS and kwargs.get('metrics') is not None:  # loops of others may have none
            self._rules.check_metrics(self, _ENDS[fn_name], kwargs['metrics'])

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the loop, and know that its loader is of the training."""
        self._split = 'train'
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: Any) -> BaseLoop:
        """Build the loop, and know that its loader is of the validation."""
        self._split = 'val'
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: Any) -> BaseLoop:
        """Build the loop, and know that its loader is of the test."""
        self._split = 'test'
        return super().build_test_loop(loop)

    def build_dataloader(self, dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a loader that names its files and whose workers ignore signals.

        Raises:
            UsageError: A rule about data is broken.
        """
        annotations: dict = {}
        name = f'{self._split}_dataloader'
        try:
            with naming_sources(dataloader, name), seeing_annotations(annotations.__setitem__):
                loader = super().build_dataloader(dataloader, *args, **kwargs)
        except DataError:
            self._rules.check_folders(self._split, dataloader)  # may know the cause
            raise
        guard_data(loader.dataset, self.cfg)
        self._rules.check_dataset(self._split, loader.dataset, annotations)
        protect_workers(loader)
        return loader

    def load_or_resume(self) -> None:
        """Load or resume, then follow the config's schedule and optimiser settings.

        Raises:
            UsageError: The checkpoint cannot be used, a rule about it or about
                the model is broken, or it is from beyond the config's last
                epoch or iteration.
        """
        planned = PlannedSchedule(self.param_schedulers)
        hyperparameters = PlannedHyperparameters(self.optim_wrapper)
        with explained(
            f'{self._load_from} must be what a run of {self._name} can load',
            'give another one, or change the config',
        ), noting_missing(self.model) as missing:
            super().load_or_resume()
        # Weights to start from may be of other classes.
        goes_on = self._tests or self._resume
        self._rules.check_run(self, self._checkpoint.get('meta') if goes_on else None)
        if not self._tests:
            self._rules.check_training(self, self._checkpoint, missing)
        if not self._resume or not self._has_loaded:
            return
        loop = self.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        line = planned.follow(
            self._checkpoint.get('param_schedulers'),
            self.iter,
            self.epoch,
            len(loop.dataloader) if by_epoch else None,
        )
        scheduled = {scheduler.param_name for scheduler in planned.schedulers}
        for text in (line, hyperparameters.follow(scheduled)):
            if text:
                self.logger.info(text)
        if by_epoch:
            self._check_what_is_left('epochs', loop.epoch, loop.max_epochs)
        else:
            self._check_what_is_left('iters', loop.iter, loop.max_iters)

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        """Load weights; a test requires exactly the model's keys.

        Raises:
            UsageError: Keys are unexpected, missing or wrongly shaped; all are
                named.
        """
        if self._tests:
            kwargs.setdefault('strict', True)
        try:
            return super().load_checkpoint(filename, *args, **kwargs)
        except RuntimeError as error:
            if not self._tests:
                raise
            said = ' '.join(str(error).split())  # in one line
            raise UsageError(f"{filename} does not fit the config's model: {said}") from error

    def _check_what_is_left(self, unit: str, done: int, end: int) -> None:
        state = f'{done} {unit} are done, and train_cfg.max_{unit} is {end}'
        if done > end:
            raise UsageError(
                f'nothing is left to train: {state}; raise it, or resume an earlier checkpoint'
            )
        if done == end:
            self.logger.warning(f'Nothing is left to train: {state}.')

    @contextmanager
    def _naming_full_disk(self) -> Iterator[None]:
        """Say in one line that the disk, or a quota, is full.

        Raises:
            UsageError: In place of an OSError that means it.
        """
        for handler in self.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = _raise
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            kept = find_whole_checkpoint(self.work_dir)
            raise UsageError(
                f'{error.filename or self.work_dir} cannot be written '
                f'({error.strerror}); the last whole checkpoint is '
                f'{kept or "none"}; free space and go on with '
                '--resume'
            ) from error


def _raise(record: Any) -> None:
    """Raise the current error; logging would print its traceback and continue."""
    raise


def guarded(
    kind: Any, scope: Optional[str] = None, allowed: Collection[str] = ()
) -> Type[GuardedRun]:
    """Return a runner class with :class:`GuardedRun` mixed in.

    Args:
        kind: A config's ``runner_type``: a name or a class.
        scope: The config's ``default_scope``.
        allowed: See :class:`GuardedRun`.

    Raises:
        ValueError: There is no runner of that name.
    """
    with RUNNERS.switch_scope_and_registry(scope) as registry:
        base = registry.get(kind) if isinstance(kind, str) else kind
    if base is None:
        raise ValueError(f'{kind} is not the name of a runner')
    return type(f'Guarded{base.__name__}', (GuardedRun, base), dict(allowed=allowed))
