"""Rules about settings of single parameters and averages of weights, for a model that is built."""

from difflib import SequenceMatcher
from typing import Any, Dict, Iterable, Iterator, List, Optional

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import BaseLoop
from torch import nn

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

_CONSTRUCTORS = ('DefaultOptimWrapperConstructor', 'LayerDecayOptimWrapperConstructor')
_KEYS = 'optim_wrapper.paramwise_cfg.custom_keys'
# Averages whose share of the first weights depends on the number of updates only.
_AVERAGES = ('ExponentialMovingAverage', 'MomentumAnnealingEMA', 'ExpMomentumEMA')
_MOST_LEFT = 0.1


def check_custom_keys(model: nn.Module, optim_wrapper: Dict) -> Iterator[Problem]:
    """Find keys of ``custom_keys`` that are part of no parameter's name.

    A key that is spelt almost like a part of a name is an error. Others may be inherited from a
    config of another model: they are a warning if they set a rate, else passed over.

    Args:
        model: The model, also wrapped.
        optim_wrapper: The config. Constructors of others are passed over.

    Yields:
        ``custom-keys`` (error) or ``unused-custom-keys`` (warning).
    """
    constructor = bare_type_name(dict(type=optim_wrapper.get('constructor', _CONSTRUCTORS[0])))
    if constructor not in _CONSTRUCTORS:
        return
    names = _parameters(model)
    custom_keys = (optim_wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {}
    for key, settings in custom_keys.items():
        if any(key in name for name in names):
            continue
        said = 'no parameter has this key in its name'
        close = _close(key, names)
        if close:
            yield Problem('custom-keys', f'{_KEYS}.{key}', f'{said}; did you mean {close}?')
        elif settings.get('lr_mult', 1) != 1:
            yield Problem(
                'unused-custom-keys',
                f'{_KEYS}.{key}',
                f'{said}, so it changes no rate; names are such as {names[0].lstrip(".")}',
            )


def check_slow_averages(hooks: Iterable[Hook], loop: BaseLoop) -> Iterator[Problem]:
    """Find averages of a training from random weights that stay near these.

    Evaluations and checkpoints use the averages, so the model seems untrained.

    Args:
        hooks: The run's hooks.
        loop: The training loop.

    Yields:
        ``slow-ema`` (warning).
    """
    for hook in hooks:
        if not isinstance(hook, EMAHook) or bare_type_name(hook.ema_cfg) not in _AVERAGES:
            continue
        max_iters = loop.max_iters
        by_epoch = (hook.begin_epoch - 1) * max_iters // max(loop.max_epochs, 1)
        begin = max(hook.begin_iter - 1, by_epoch, 0)
        if 10 * begin > max_iters:  # the first copy is of trained weights
            continue
        left = _share_left(hook.ema_cfg, max_iters - begin)
        if left > _MOST_LEFT:
            momentum = 1 - 0.01 ** (hook.ema_cfg.get('interval', 1) / (max_iters - begin))
            yield Problem(
                'slow-ema',
                'custom_hooks',
                f'after {max_iters} iterations, {left:.0%} of what {type(hook).__name__} '
                'evaluates and saves are still the weights of the start; set its '
                f"ema_type='MomentumAnnealingEMA', or momentum={momentum:.1g}",
            )


def _share_left(ema_cfg: Dict[str, Any], updates: int) -> float:
    """Return the share of the first copy in an average; at most a tenth is not followed on."""
    config = {**ema_cfg, 'device': None}
    average = MODELS.build(config, default_args=dict(model=nn.Linear(1, 1)))
    share, trained = torch.ones(1), torch.zeros(1)
    for step in range(average.interval, updates, average.interval):
        average.steps.fill_(step)
        average.avg_func(share, trained, step)
        if share.item() <= _MOST_LEFT:
            break
    return share.item()


def _parameters(model: nn.Module) -> List[str]:
    """Return the names that MMEngine's constructor looks in, also those of shared modules."""
    if is_model_wrapper(model):
        model = model.module
    return [
        f'{prefix}.{name}'.replace('_fsdp_wrapped_module.', '')
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, _ in module.named_parameters(recurse=False)
    ]


def _close(key: str, names: List[str]) -> Optional[str]:
    """Return the part of a name that has a letter more or less than a key, in each component."""
    wanted = key.split('.')
    for name in names:
        parts = name.split('.')
        for start in range(len(parts) - len(wanted) + 1):
            part = parts[start : start + len(wanted)]
            if all(map(_is_alike, wanted, part)):
                return '.'.join(part)
    return None


def _is_alike(word: str, other: str) -> bool:
    """Return whether letters are left out or added; others, as in layer3, name something else."""
    word, other = sorted((word.lower(), other.lower()), key=len)
    letters = iter(other)
    alike = SequenceMatcher(None, word, other).ratio() >= 0.8
    return alike and all(letter in letters for letter in word)
