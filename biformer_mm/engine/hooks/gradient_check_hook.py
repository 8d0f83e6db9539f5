"""Warn of parts that learn nothing, and stop if mixed precision skips every update."""

from typing import Any, Dict, List, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from biformer_mm.utils.errors import UsageError

_ALL = 5  # updates after which no gradient at all is remarkable
_PARTS = 100  # the same for a part of the model, as some losses are rare
_SHARE = 0.9  # of a part's tensors; in half precision gradients vanish one by one
_SKIPPED = 50  # a dynamic loss scale starts with about 10 skipped updates


@HOOKS.register_module()
class GradientCheckHook(Hook):
    """Check that the losses teach every part of the model.

    It warns if all gradients of the first 5 updates are zero, and if those of
    a part of the model, such as ``auxiliary_head``, are zero in the first 100.
    With a gradient scaler (``--amp``) it stops the run if 50 updates in a row
    have changed no weight, because each of them was skipped. tools/train.py
    adds the hook. Runs with FSDP, DeepSpeed or several optimisers are not checked.

    Raises:
        UsageError: During training, if mixed precision skips every update.
    """

    def __init__(self) -> None:
        self.updates = 0
        self._due = False
        self._sums: Optional[Tensor] = None

    def before_train(self, runner: Runner) -> None:
        """Look at the gradients in the optimiser wrapper's ``step``."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
            return
        if isinstance(runner.model, FullyShardedDataParallel):  # gradients are partly elsewhere
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._params = {
            name: param
            for name, param in model.named_parameters()
            if param.requires_grad and param.numel()
        }
        if not self._params:
            return
        # Which parameters had a gradient other than zero; on their device, to
        # wait for it only where it is read.
        self._taught: Optional[Tensor] = None
        scaled = hasattr(wrapper, 'loss_scaler')
        step = wrapper.step

        def step_and_look(**kwargs: Any) -> None:
            if self.updates < _PARTS:
                self._look()
            if scaled and self._sums is None:
                self._sums = self._sum_weights()
            step(**kwargs)
            self.updates += 1
            self._due |= self.updates in (_ALL, _PARTS)
            if scaled and self.updates % _SKIPPED == 0:
                self._stop_if_skipped(wrapper)

        wrapper.step = step_and_look

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict] = None
    ) -> None:
        """Warn after the 5th and the 100th update, where there is a reason."""
        if not self._due:
            return
        self._due = False
        if self._taught is None:  # sharded: the gradients are elsewhere
            return
        taught = dict(zip(self._params, self._taught.tolist()))
        if self.updates == _ALL and not any(taught.values()):
            runner.logger.warning(
                f'The model learns nothing: all gradients of the first {_ALL} updates are '
                f'0 ({_describe(outputs)}){_only_label(data_batch)}; look for targets that are all '
                'ignored, a softmax over one class, or loss weights of 0.'
            )
        elif self.updates == _PARTS and any(taught.values()):
            for line in _idle_parts(taught):
                runner.logger.warning(line)

    @torch.no_grad()
    def _look(self) -> None:
        """Note which gradients are not zero."""
        grads = [param.grad for param in self._params.values()]
        if all(grad is None for grad in grads):
            return
        if self._taught is None:
            device = next(grad.device for grad in grads if grad is not None)
            self._taught = torch.zeros(len(grads), dtype=torch.bool, device=device)
        none = self._taught.new_zeros(())
        self._taught |= torch.stack(
            [none if grad is None else grad.any().to(none.device) for grad in grads]
        )

    @torch.no_grad()
    def _sum_weights(self) -> Tensor:
        """Return the sum of each parameter: one that stays has not changed."""
        sums = [param.sum(dtype=torch.float64) for param in self._params.values()]
        return torch.stack([value.to(sums[0].device) for value in sums])

    def _stop_if_skipped(self, wrapper: OptimWrapper) -> None:
        before, self._sums = self._sums, self._sum_weights()
        moves = any(group['lr'] for group in wrapper.param_groups)
        if not moves or not torch.equal(before, self._sums):
            return
        raise UsageError(
            f'mixed precision skips every update: the last {_SKIPPED} have changed no weight, as '
            'gradients overflow or vanish in half precision (loss scale '
            f'{wrapper.loss_scaler.get_scale():g}); train with --amp bfloat16 or without --amp, '
            "or set optim_wrapper.loss_scale='dynamic' if it is a number"
        )


def _idle_parts(taught: Dict[str, bool]) -> List[str]:
    """Describe the parts of a model of which (nearly) no parameter had a gradient."""
    parts: Dict[str, List[bool]] = {}
    for name, had in taught.items():
        words = name.split('.')
        depth = 2 if words[0] == 'roi_head' else 1  # it has a head for boxes and one for masks
        parts.setdefault('.'.join(words[:depth]), []).append(had)
    return [
        f'{part} learns nothing: {len(had) - sum(had)} of its {len(had)} parameters had no '
        f'gradient in the first {_PARTS} updates; look for a loss without targets, an output that '
        'nothing uses, or gradients too small for half precision.'
        for part, had in parts.items()
        if len(had) - sum(had) >= _SHARE * len(had)
    ]


def _describe(outputs: Any) -> str:
    """List the losses of an iteration."""
    losses = outputs.items() if isinstance(outputs, dict) else ()
    named = [
        f'{name} {torch.as_tensor(value).detach().item():.4f}'
        for name, value in losses
        if 'loss' in name
    ]
    return ', '.join(named) or 'losses unknown'


def _only_label(batch: Any) -> str:
    """Name the label of a batch for segmentation, if its maps have one only."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    maps = [sample.gt_sem_seg.data for sample in samples or () if hasattr(sample, 'gt_sem_seg')]
    labels = {label for one in maps for label in one.unique().tolist()}
    return f'; every pixel of the last batch has label {labels.pop()}' if len(labels) == 1 else ''
