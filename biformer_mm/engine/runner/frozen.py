"""Rules about frozen weights, for a model that is built and loaded."""

from typing import Any, Iterator, List

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from biformer_mm.datasets.checks.problems import Problem


def check_frozen(model: nn.Module, optim_wrapper: Any, loaded: bool) -> Iterator[Problem]:
    """Find that nothing can be trained, or that random weights are frozen.

    Args:
        model: The model of a training, also wrapped.
        optim_wrapper: Its optimiser wrapper; rates of other wrappers than
            MMEngine's OptimWrapper are not looked at.
        loaded: Whether the run has loaded a checkpoint.

    Yields:
        ``all-frozen`` (error) or ``frozen-random`` (warning).
    """
    if is_model_wrapper(model):
        model = model.module
    if not any(param.requires_grad for param in model.parameters()):
        yield Problem(
            'all-frozen',
            'model',
            'at least one parameter must be trained, and all are frozen; lower frozen_stages, or '
            'leave out the hook or the code that freezes',
        )
        return
    if isinstance(optim_wrapper, OptimWrapper) and not isinstance(optim_wrapper, OptimWrapperDict):
        # Schedulers keep the rate that they start from.
        rates = [
            group.get('initial_lr', group['lr'])
            for group in optim_wrapper.param_groups
            if any(param.requires_grad for param in group['params'])
        ]
        if not any(rates):
            yield Problem(
                'all-frozen',
                'optim_wrapper',
                'the rate of at least one parameter must be more than 0, and all rates are 0; '
                'raise optimizer.lr, or an lr_mult of paramwise_cfg',
            )
    if not loaded:
        yield from _frozen_random(model)


def _frozen_random(model: nn.Module) -> Iterator[Problem]:
    """Find modules that keep what they have not learnt."""
    given = [name for name, module in model.named_modules() if _names_weights(module)]
    for name, module in model.named_modules():
        frozen: List[str] = []
        if _number(module, 'frozen_stages') >= 0 and not all(
            param.requires_grad for param in module.parameters()
        ):
            frozen.append('frozen_stages=-1')
        if getattr(module, 'norm_eval', False) is True and any(
            isinstance(inner, _BatchNorm) for inner in module.modules()
        ):
            frozen.append('norm_eval=False')
        # Weights may be given to the module, to what it is in, or to a part of it.
        if frozen and not any(
            _is_within(name, other) or _is_within(other, name) for other in given
        ):
            yield Problem(
                'frozen-random',
                f'model.{name}'.rstrip('.'),
                'weights or statistics are frozen that are still random; give pretrained weights '
                f'by init_cfg or load_from, or set {" and ".join(frozen)}',
            )


def _names_weights(module: nn.Module) -> bool:
    """Return whether a module's ``init_cfg`` names a checkpoint."""
    init = getattr(module, 'init_cfg', None)
    return any(
        isinstance(part, dict) and part.get('checkpoint')
        for part in (init if isinstance(init, (list, tuple)) else [init])
    )


def _number(module: nn.Module, name: str) -> int:
    value = getattr(module, name, -1)
    return value if isinstance(value, int) else -1


def _is_within(name: str, other: str) -> bool:
    return not other or name == other or name.startswith(f'{other}.')
