"""Rules about the weights that a training starts from or goes on with."""

import re
from collections import Counter
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from biformer_mm.datasets.checks.problems import Problem

Shapes = Dict[str, Tuple[int, ...]]

_MOST_SHOWN = 3


def shapes_of(checkpoint: Dict) -> Shapes:
    """Return the shapes of a checkpoint's weights by name, without ``module.`` of DDP."""
    weights = checkpoint.get('state_dict', checkpoint)
    return {re.sub(r'^module\.', '', name): shape for name, shape in _shapes(weights).items()}


@contextmanager
def noting_missing(model: nn.Module) -> Iterator[Set[str]]:
    """Collect the names of the model's tensors that a checkpoint lacks.

    The names are those that PyTorch finds while it loads, after modules have renamed what an old
    checkpoint has.

    Args:
        model: The model that the block loads a checkpoint into, also wrapped.
    """
    missing: Set[str] = set()

    def note(module: nn.Module, keys: Any) -> None:
        missing.update(keys.missing_keys)

    handle = _bare(model).register_load_state_dict_post_hook(note)
    try:
        yield missing
    finally:
        handle.remove()


class LoadedWeights:
    """How many of a model's tensors a training has taken from ``load_from``.

    Args:
        path: The checkpoint.
        model: The model, also wrapped.
        theirs: What the checkpoint has, see :func:`shapes_of`.
        missing: What it lacks, see :func:`noting_missing`.
    """

    def __init__(self, path: str, model: nn.Module, theirs: Shapes, missing: Set[str]) -> None:
        self.path, self.theirs = path, theirs
        self.ours = _shapes(_bare(model).state_dict())
        self.loaded = [
            name
            for name, shape in self.ours.items()
            if name not in missing and theirs.get(name, shape) == shape
        ]

    def __str__(self) -> str:
        new = Counter(name.partition('.')[0] for name in set(self.ours).difference(self.loaded))
        said = f'{self.path}: {len(self.loaded)} of {len(self.ours)} tensors of the model loaded'
        parts = ', '.join(f'{part} ({number})' for part, number in sorted(new.items()))
        return f'{said}; new: {parts}' if new else said

    def check(self) -> Iterator[Problem]:
        """Find that the weights do not fit, so that the training starts from scratch.

        Heads may be new. A model with a backbone must find at least half of the backbone.

        Yields:
            ``nothing-loaded`` (error) or ``partly-loaded`` (warning).
        """
        if not self.loaded:
            yield Problem(
                'nothing-loaded',
                self.path,
                f'a name and shape must fit the model, and none does: it has '
                f'{_some(self.theirs)}, and the model {_some(self.ours)}; {self._cure()}',
            )
            return
        backbone = [name for name in self.ours if name.startswith('backbone.')]
        part, names = ('backbone', backbone) if backbone else ('model', list(self.ours))
        fit = len(set(names).intersection(self.loaded))
        if 2 * fit < len(names):
            lacking = next(name for name in names if name not in set(self.loaded))
            yield Problem(
                'partly-loaded',
                self.path,
                f'{fit} of {len(names)} tensors of the {part} fit, and the others, such as '
                f'{lacking}, keep their first values; give weights of this model',
            )

    def _cure(self) -> str:
        lacking, extra = _prefixes(self.ours, self.theirs)
        if lacking:
            field = f'model.{lacking[:-1]}.init_cfg'
            return (
                f"its names fit with '{lacking}' before them: set {field}.type=Pretrained "
                f'{field}.checkpoint={self.path} in place of load_from'
            )
        if extra:
            return (
                f"its names fit without '{extra}': set model.init_cfg.type=Pretrained "
                f'model.init_cfg.checkpoint={self.path} model.init_cfg.prefix={extra} in place '
                'of load_from'
            )
        return 'give weights of this model, or leave load_from out'


def check_averages(path: str, averaged: bool, hooks: Iterable[Hook]) -> Iterator[Problem]:
    """Find that a resumed run lacks the EMAHook of its checkpoint.

    The weights of such a checkpoint are the averages. Without the hook, they would be trained on
    with the optimiser's state of other weights.

    Args:
        path: The checkpoint.
        averaged: Whether it has an ``ema_state_dict``.
        hooks: The run's hooks.

    Yields:
        ``ema`` (error).
    """
    if averaged and not any(isinstance(hook, EMAHook) for hook in hooks):
        yield Problem(
            'ema',
            path,
            'its weights are the averages of an EMAHook, which a resumed run must have, and '
            'this one has none; add it to custom_hooks, or start a new training from them by '
            'load_from, without --resume',
        )


def _bare(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _shapes(weights: Dict) -> Shapes:
    """Return the shapes of tensors, without counters that PyTorch adds to what it loads."""
    return {
        name: tuple(value.shape)
        for name, value in weights.items()
        if isinstance(value, Tensor) and not name.endswith('num_batches_tracked')
    }


def _some(shapes: Shapes) -> str:
    names: List[str] = [f'{name} {list(shape)}' for name, shape in shapes.items()]
    return ', '.join(names[:_MOST_SHOWN]) or 'no tensor'


def _prefixes(ours: Shapes, theirs: Shapes) -> Tuple[Optional[str], Optional[str]]:
    """Find what the checkpoint's names lack, or have too much, at their start.

    Returns:
        The prefix that half of the names lack, and the one that they have too much; None for no
        such prefix.
    """
    lacking: Counter = Counter()
    extra: Counter = Counter()
    for their, shape in theirs.items():
        for our, own in ours.items():
            if shape == own and our.endswith(f'.{their}'):
                lacking[our[: -len(their)]] += 1
            elif shape == own and their.endswith(f'.{our}'):
                extra[their[: -len(our)]] += 1
    half = min(len(ours), len(theirs)) / 2
    first, second = (
        next((prefix for prefix, n in found.most_common(1) if n >= half), None)
        for found in (lacking, extra)
    )
    return first, second
