"""Stop at a loss that is nan or infinite, and say where it comes from."""

from contextlib import nullcontext
from typing import Any, Dict, List

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from biformer_mm.models.compiling import eagerly
from biformer_mm.ops.validation import check_int
from biformer_mm.utils.errors import UsageError


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Check each loss before the optimiser uses it.

    A loss that is nan or infinite never reaches the optimiser. The run stops,
    or skips the batch, and names the iteration, the files and, unless weights
    are sharded, the first module with such an output. An overflow that the gradient scaler of mixed
    precision corrects does not count, as the loss itself is finite.
    tools/train.py adds the hook.

    Args:
        max_skips: Number of batches that a run may skip before it stops.
            Running statistics of norms are restored, too.

    Raises:
        ValueError: ``max_skips`` is not an integer of at least 0.
    """

    def __init__(self, max_skips: int = 0) -> None:
        self.max_skips = check_int('max_skips', max_skips, 0)
        self.skipped = 0

    def before_train(self, runner: Runner) -> None:
        """Check the loss in the optimiser wrapper's ``update_params``."""
        update = runner.optim_wrapper.update_params

        def update_if_finite(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if _all_finite(loss):
                update(loss, *args, **kwargs)
            else:
                self._stop_or_skip(runner)

        runner.optim_wrapper.update_params = update_if_finite

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch, and buffers to restore, for a loss that is not finite."""
        self._batch = data_batch
        if self.max_skips:
            self._buffers = [(b, b.clone()) for b in _unwrap(runner.model).buffers()]

    def _stop_or_skip(self, runner: Runner) -> None:
        self.skipped += 1
        if has_sharded_weights(runner.model):
            origin = 'not located, as the weights are sharded'
        else:
            model, wrapper = _unwrap(runner.model), runner.optim_wrapper
            with (
                wrapper.optim_context(model)  # the precision of --amp
                if isinstance(wrapper, OptimWrapper)
                else nullcontext()
            ):
                origin = find_origin(model, self._batch)
        text = (
            f'the loss of iteration {runner.iter + 1} is not finite; '
            f'files: {", ".join(file_names(self._batch)) or "unnamed"}; '
            f'{origin}'
        )
        if self.skipped > self.max_skips:
            before = f'; {self.max_skips} before it were passed over' if self.max_skips else ''
            raise UsageError(
                f'{text}{before}; look at these files, lower the '
                'rate or clip gradients, and go on from the '
                'last checkpoint with --resume'
            )
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        runner.logger.warning(f'{text}; passed over, {self.skipped} of at most {self.max_skips}')


def has_sharded_weights(model: nn.Module) -> bool:
    """Return whether each process has a part of the weights only: with FSDP, or ZeRO stage 3."""
    in_stage_3 = getattr(model, 'zero_optimization_partition_weights', lambda: False)
    return isinstance(model, FullyShardedDataParallel) or in_stage_3()


def file_names(batch: Any) -> List[str]:
    """Return the paths of a batch's images, as far as they are known."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    paths = (getattr(sample, 'img_path', None) for sample in samples or ())
    return [path for path in paths if path]


@torch.no_grad()
def find_origin(model: nn.Module, batch: Dict) -> str:
    """Find the first module of a model whose output is nan or infinite.

    The batch is run again; modules with random parts may give other values.
    It is always run to the end, as the other processes of a distributed run
    wait in layers that gather from all, such as SyncBN.

    Args:
        model: A whole model of OpenMMLab, in training mode.
        batch: A batch of the data loader.

    Returns:
        A phrase that names the module, loss, weight or images.
    """
    for name, param in model.named_parameters():
        if not param.isfinite().all():
            return f'weights are not finite already, first {name}'
    found: List[str] = []

    def look(name: str):

        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if not found and not all(x.isfinite().all() for x in _tensors(out)):
                kind = type(module).__name__
                found.append(f'{name or "the model"} ({kind})')

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        data = model.data_preprocessor(batch, True)
        bad = any(not x.isfinite().all() for x in _tensors(data))
        with eagerly():
            losses = model(**data, mode='loss')
    finally:
        for hook in hooks:
            hook.remove()
    if bad:
        return 'the images are not finite already'
    if found and found[0] != f'the model ({type(model).__name__})':
        return f'first in {found[0]}'
    names = [
        name for name, loss in losses.items() if not all(x.isfinite().all() for x in _tensors(loss))
    ]
    if names:
        return f'first in the loss, {", ".join(names)}'
    return 'not so when the batch is run again'


def _all_finite(loss: Tensor) -> bool:
    """Return whether the loss is finite in all processes of a distributed run."""
    finite = loss.detach().isfinite().all()
    if get_world_size() > 1:
        finite = finite.int()
        all_reduce(finite, op='min')
    return bool(finite)


def _tensors(value: Any) -> List[Tensor]:
    """Return the floating-point tensors in nested lists and dicts."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [x for part in value for x in _tensors(part)]


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
