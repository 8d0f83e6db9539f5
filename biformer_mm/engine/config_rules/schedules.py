"""Check that the schedule of the learning rate fits the length of the training."""

import warnings
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from mmengine.registry import PARAM_SCHEDULERS

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

from .parts import class_of, count, each

# To simulate with: the real number is known only when the data are read.
_STEPS_OF_AN_EPOCH = 20
# Of the base rate. A cosine ends a step before 0; recipes decay to 1e-4 in steps.
_ALMOST_0 = 1e-5
# Their rates depend on a metric, or rise on purpose.
_ODD = ('Plateau', 'OneCycle', 'Restart', 'Cyclic')


def check_units(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse schedulers by epoch in a training that counts iterations: they never step."""
    if 'train' not in splits or not _counts_iterations(cfg):
        return
    for key, scheduler in each('param_scheduler', cfg.get('param_scheduler')):
        by_epoch = scheduler.get('by_epoch', True) and not scheduler.get('convert_to_iter_based')
        if 'type' in scheduler and by_epoch and 'Plateau' not in bare_type_name(scheduler):
            yield Problem(
                'schedule-units',
                f'{key}.by_epoch',
                'True, the default, but train_cfg counts iterations: this scheduler never steps '
                f'and the rate stays at its first value; set {key}.by_epoch=False, and its '
                'numbers in iterations',
            )


def _counts_iterations(cfg: Dict) -> bool:
    loop = cfg.get('train_cfg') or {}
    by_type = bare_type_name(loop) in ('IterBasedTrainLoop', 'ResumableIterLoop')
    return by_type or ('type' not in loop and loop.get('by_epoch') is False)


def check_rates(
    cfg: Dict, splits: Sequence[str], epoch_length: Optional[int] = None
) -> Iterator[Problem]:
    """Warn of a learning rate that is 0, stays low, or rises again at the end.

    Args:
        cfg: The config.
        splits: Those that the run uses.
        epoch_length: Iterations of an epoch. Unless it is known, schedulers by iteration, such as
            a warm-up, are left out where epochs are counted.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    base = optimizer.get('lr') if isinstance(optimizer, dict) else None
    if 'train' not in splits or not isinstance(base, float) or base <= 0:
        return
    rates = _simulate(cfg, base, epoch_length)
    if not rates:
        return
    zero = sum(rate < _ALMOST_0 * base for rate in rates) / len(rates)
    peak = max(range(len(rates)), key=rates.__getitem__)
    if zero > 0.05:
        what = f'is 0, or almost, for {zero:.0%} of the training'
    elif rates[peak] < base / 2:
        what = f'never reaches half of optim_wrapper.optimizer.lr, but {rates[peak]:.3g} at most'
    elif min(rates[peak:]) < rates[peak] / 4 < rates[-1]:
        what = f'falls to {min(rates[peak:]):.3g} and rises again to {rates[-1]:.3g} at the end'
    else:
        return
    length = 'max_iters' if _counts_iterations(cfg) else 'max_epochs'
    yield Problem(
        'schedule',
        'param_scheduler',
        f'the rate {what}; fit end, milestones and T_max to train_cfg.{length}='
        f'{cfg["train_cfg"][length]}',
    )


def counts_both(cfg: Dict) -> bool:
    """Return whether epochs are counted, and a scheduler counts iterations."""
    parts = [part for _, part in each('', cfg.get('param_scheduler')) if 'type' in part]
    return not _counts_iterations(cfg) and not all(part.get('by_epoch', True) for part in parts)


def _simulate(cfg: Dict, base: float, epoch_length: Optional[int] = None) -> Optional[List[float]]:
    """Return the rate of each step of the training; None if it cannot be known."""
    in_epochs = not _counts_iterations(cfg)
    length = count(cfg.get('train_cfg'), 'max_epochs' if in_epochs else 'max_iters')
    parts = [part for _, part in each('', cfg.get('param_scheduler')) if 'type' in part]
    if length is None or any(odd in bare_type_name(part) for part in parts for odd in _ODD):
        return None
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], base)
    scale = (epoch_length or _STEPS_OF_AN_EPOCH) if in_epochs else 1
    rates = []
    with warnings.catch_warnings():  # that the optimiser must step first
        warnings.simplefilter('ignore')
        try:
            schedulers = [
                _build(cfg, part, dummy, length, scale)
                for part in parts
                if 'LR' in bare_type_name(part)
                and (epoch_length or part.get('by_epoch', True) == in_epochs)
            ]
            for step in range(length * scale):
                rates.append(dummy.param_groups[0]['lr'])
                for scheduler in schedulers:
                    if not scheduler.by_epoch or (step + 1) % scale == 0:
                        scheduler.step()
        except Exception:  # of many kinds; building the run says what is wrong
            return None
    return rates


def _build(cfg: Dict, part: Dict, optimizer: torch.optim.Optimizer, length: int, scale: int) -> Any:
    by_epoch = part.get('by_epoch', True)
    settings = {'end': length if by_epoch else length * scale, **part}
    kind = class_of(cfg, part, PARAM_SCHEDULERS)
    settings.pop('type')
    if settings.pop('convert_to_iter_based', False):
        return kind.build_iter_from_epoch(optimizer, epoch_length=scale, **settings)
    return kind(optimizer, **settings)


RULES = (check_units, check_rates)
