"""Make a resumed run use its config's optimiser settings, not the checkpoint's."""

import inspect
from typing import Any, Collection, Dict, Iterator, List, Optional, Tuple

from mmengine.optim import OptimWrapper, OptimWrapperDict

_MOST_SHOWN = 5


class PlannedHyperparameters:
    """Keep the config's weight decay, betas and so on while a run is resumed.

    PyTorch's optimisers restore them from the checkpoint, so a config that was changed in between
    would have no effect. Only arguments of the optimiser's class are kept, as some optimisers note
    their progress beside them.

    Args:
        optim_wrapper: A runner's optimiser wrapper before it loads; others than MMEngine's
            OptimWrapper and OptimWrapperDict are not looked at.
    """

    def __init__(self, optim_wrapper: Any) -> None:
        self.planned: List[Tuple[Any, List[Dict[str, Any]]]] = []
        for optimizer in _optimizers(optim_wrapper):
            names = set(inspect.signature(type(optimizer)).parameters) - {'params'}
            groups = [
                {name: value for name, value in group.items() if name in names}
                for group in optimizer.param_groups
            ]
            self.planned.append((optimizer, groups))

    def follow(self, scheduled: Collection[str]) -> Optional[str]:
        """Set the hyperparameters that no scheduler sets to the config's.

        Args:
            scheduled: Names that schedulers set, such as 'lr'.

        Returns:
            One line that says what has changed, or None.
        """
        left = {*scheduled, *(('betas',) if 'momentum' in scheduled else ())}
        changes = []
        for optimizer, groups in self.planned:
            for group, planned in zip(optimizer.param_groups, groups):
                for name, value in planned.items():
                    if name in left:
                        continue
                    before = group.get(name, value)
                    if _plain(before) != _plain(value):
                        changes.append(f'{name} {before} -> {value}')
                    group[name] = value
        if not changes:
            return None
        changes = list(dict.fromkeys(changes))  # many groups have the same
        said = ', '.join(changes[:_MOST_SHOWN])
        if len(changes) > _MOST_SHOWN:
            said += f' and {len(changes) - _MOST_SHOWN} more'
        return (
            f"{said}: the config's optimiser settings differ from the checkpoint's and hold from "
            'here on'
        )


def _optimizers(optim_wrapper: Any) -> Iterator[Any]:
    if isinstance(optim_wrapper, OptimWrapperDict):
        for wrapper in optim_wrapper.values():
            yield from _optimizers(wrapper)
    elif isinstance(optim_wrapper, OptimWrapper):
        yield optim_wrapper.optimizer


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
