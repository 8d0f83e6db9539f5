"""Make a resumed run follow its config's schedule, not the checkpoint's."""

import warnings
from copy import deepcopy
from typing import Any, Dict, List, Optional

from mmengine.optim import _ParamScheduler

# What a scheduler's state says of its progress; the rest are its settings.
_PROGRESS = {
    'last_step',
    '_global_step',
    '_last_value',
    'best',
    'num_bad_epochs',
    'cooldown_counter',
    'verbose',
    '_get_value_called_within_step',
}


class PlannedSchedule:
    """Keep the config's schedule while a run is resumed.

    MMEngine restores schedulers from the checkpoint, including settings such
    as ``T_max`` and ``milestones``, and the optimiser's rates. A config that
    was changed in between would have no effect.

    Args:
        schedulers: A runner's ``param_schedulers`` before their first step;
            None if there are none.
    """

    def __init__(self, schedulers: Any) -> None:
        self.schedulers = _flat(schedulers)
        self.states = [deepcopy(x.state_dict()) for x in self.schedulers]
        self.values = [_values(x) for x in self.schedulers]

    def follow(
        self, saved: Any, iterations: int, epochs: int, epoch_length: Optional[int]
    ) -> Optional[str]:
        """Set schedulers and rates to the state that the config's schedule gives.

        Nothing is changed if the checkpoint's schedule is the same. A
        scheduler that waits for a metric keeps its history, and the rates
        stay, as they depend on it.

        Args:
            saved: The checkpoint's ``param_schedulers``; None if it has none.
            iterations: Number of iterations done.
            epochs: Number of whole epochs done.
            epoch_length: Iterations of an epoch; None if the run does not
                count in epochs.

        Returns:
            One line that says what has changed, or None.
        """
        saved = _flat(saved)
        if [_settings(x) for x in saved] == [_settings(x) for x in self.states]:
            return None
        if not self.schedulers:
            return None  # MMEngine warns of it
        before = _rates(self.schedulers)
        if any(getattr(x, 'need_val_args', False) for x in self.schedulers):
            for scheduler, state in zip(self.schedulers, self.states):
                scheduler.load_state_dict(_settings(state))
        else:
            with warnings.catch_warnings():  # that the optimiser comes first
                warnings.simplefilter('ignore')
                self._replay(iterations, epochs, epoch_length)
        after = _rates(self.schedulers)
        changes = ', '.join(
            f'{"rate" if name == "lr" else name} {before[name]:.3g} -> {after[name]:.3g}'
            for name in after
        )
        return (
            f"{changes}: the config's schedule differs from the checkpoint's and holds from here on"
        )

    def _replay(self, iterations: int, epochs: int, epoch_length: Optional[int]) -> None:
        """Step again from the start, as most schedulers compute a value from the last."""
        for scheduler, state, values in zip(self.schedulers, self.states, self.values):
            scheduler.load_state_dict(deepcopy(state))
            for group, value in zip(scheduler.optimizer.param_groups, values):
                group.update(value)
        if not epoch_length or not (0 <= iterations - epochs * epoch_length < epoch_length):
            # Another number of processes has changed an epoch's length.
            epoch_length = iterations / epochs if epochs else iterations + 1
        done = 0
        for iteration in range(1, iterations + 1):
            self._step(by_epoch=False)
            if done < epochs and iteration >= (done + 1) * epoch_length:
                self._step(by_epoch=True)
                done += 1

    def _step(self, by_epoch: bool) -> None:
        for scheduler in self.schedulers:
            if scheduler.by_epoch == by_epoch:
                scheduler.step()


def _flat(schedulers: Any) -> List[Any]:
    """Return schedulers, or their states, of all optimisers in one list.

    Configs of schedulers, which a run that does not train keeps, are left out.
    """
    if isinstance(schedulers, dict):
        if 'last_step' in schedulers:
            return [schedulers]
        schedulers = [schedulers[name] for name in sorted(schedulers)]
    if isinstance(schedulers, (list, tuple)):
        return [x for part in schedulers for x in _flat(part)]
    return [schedulers] if isinstance(schedulers, _ParamScheduler) else []


def _values(scheduler: _ParamScheduler) -> List[Dict[str, Any]]:
    """Return the values that a scheduler sets in each parameter group."""
    names = scheduler.param_name, f'initial_{scheduler.param_name}'
    return [{name: group[name] for name in names} for group in scheduler.optimizer.param_groups]


def _settings(state: Dict[str, Any]) -> Dict[str, Any]:
    return {k: v for k, v in state.items() if k not in _PROGRESS}


def _rates(schedulers: List[_ParamScheduler]) -> Dict[str, float]:
    """Return the scheduled parameters of the first group by name."""
    return {x.param_name: x.optimizer.param_groups[0][x.param_name] for x in schedulers}
