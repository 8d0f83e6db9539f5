"""Train with PyTorch's FSDP, which shards weights, gradients and the optimiser's state."""

import re
from contextlib import nullcontext
from functools import partial
from typing import Any, Dict, Optional

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import FUNCTIONS, STRATEGIES
from mmengine.utils import digit_version
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.fully_sharded_data_parallel import OptimStateKeyType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from biformer_mm.checkpoint.names import listing
from biformer_mm.models.backbones.biformer import BiFormerBlock
from biformer_mm.utils.atomic_file import whole_file

from .distributed import revert_sync_bn

FUNCTIONS.register_module(
    'biformer_blocks',
    module=partial(transformer_auto_wrap_policy, transformer_layer_cls={BiFormerBlock}),
)


@STRATEGIES.register_module()
class WholeFSDPStrategy(FSDPStrategy):
    """MMEngine's FSDPStrategy, made to resume, clip and save as a run without FSDP does.

    MMEngine's strategy cannot resume with PyTorch 2.1 or newer, has each process clip by the norm
    of its own shard, applies ``paramwise_cfg`` to shards, which are all flat, and saves a pickle
    per process. This one saves a single file, as other runs do. tools/train.py uses it in place
    of MMEngine's.

    Args:
        model_wrapper: Settings of the ``MMFullyShardedDataParallel``. By default, each block of
            the BiFormer is gathered on its own, and everything else together.
        state_dict_cfg: 'full' only.
        kwargs: Arguments of MMEngine's strategy.

    Raises:
        ValueError: ``state_dict_cfg`` is not 'full', ``use_orig_params`` is not True, or PyTorch
            cannot run it without a GPU.
    """

    def __init__(
        self, *, model_wrapper: Optional[Dict] = None, state_dict_cfg: str = 'full', **kwargs: Any
    ) -> None:
        wrapper = {'auto_wrap_policy': 'biformer_blocks', **(model_wrapper or {})}
        if state_dict_cfg != 'full':
            raise ValueError(
                f"strategy.state_dict_cfg must be 'full', one file that all tools read; "
                f'got {state_dict_cfg!r}'
            )
        if wrapper.get('use_orig_params', True) is not True:
            raise ValueError(
                'strategy.model_wrapper.use_orig_params must be True, as rates and weight decay '
                'may differ between parameters; leave it out'
            )
        self.on_cpus = get_device() == 'cpu'
        if self.on_cpus and digit_version(torch.__version__) < digit_version('2.2'):
            raise ValueError(
                f'FSDPStrategy without a GPU needs PyTorch 2.2; got {torch.__version__}; use DDP '
                '(runner_type=Runner)'
            )
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        if self.on_cpus:
            wrapper['device_id'] = torch.device('cpu')
            # PyTorch copies nothing from the CPU to the CPU, and frees or overwrites the original.
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False

    def prepare(self, model: Any, *, optim_wrapper: Any = None, **kwargs: Any) -> Any:
        """Prepare the parts of a run as MMEngine does.

        The optimiser is built first, while parameters have their names and shapes. FSDP keeps the
        parameters' objects.
        """
        model = self.build_model(model)
        if optim_wrapper is not None:
            optim_wrapper = super().build_optim_wrapper(optim_wrapper, model)
        return super().prepare(model, optim_wrapper=optim_wrapper, **kwargs)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper, model: FSDP) -> OptimWrapper:
        """Let the built wrapper clip by the norm of the whole model's gradients.

        Raises:
            ValueError: There are several optimisers, or ``clip_grad`` has an argument that FSDP's
                clipping lacks.
        """
        if isinstance(optim_wrapper, OptimWrapperDict):
            raise ValueError('optim_wrapper must be one optimiser with FSDP; got several')
        clip = optim_wrapper.clip_grad_kwargs or {}
        if 'max_norm' in clip:
            if not set(clip) <= {'max_norm', 'norm_type'}:
                raise ValueError(
                    'optim_wrapper.clip_grad takes max_norm and norm_type only, as FSDP clips; '
                    f'got {clip}'
                )
            # All processes take part, also one whose shards have no gradient.
            optim_wrapper._clip_grad = partial(_clip, optim_wrapper, model)
        return optim_wrapper

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        return super()._wrap_model(revert_sync_bn(model) if self.on_cpus else model)

    def load_checkpoint(self, filename: str, **kwargs: Any) -> Dict:
        """Load a checkpoint through the memory of the CPU; it may be too large for a GPU."""
        return super().load_checkpoint(filename, **{**kwargs, 'map_location': 'cpu'})

    def load_model_state_dict(self, state_dict: Dict, *, strict: bool = False, **_: Any) -> None:
        """Load weights, also those that another wrapper has put under ``module.``."""
        weights = {re.sub(r'^module\.', '', name): value for name, value in state_dict.items()}
        missing, unexpected = self.model.load_state_dict(weights, strict=strict)
        for names, said in ((missing, 'missing'), (unexpected, 'unexpected')):
            if names:
                self.logger.warning(f'{said} in the checkpoint: {listing(names, 5)}')

    def load_optim_state_dict(self, state_dict: Dict) -> None:
        """Load the optimiser's state, also of a run without FSDP."""
        optimizer = self.optim_wrapper.optimizer
        named = FSDP.rekey_optim_state_dict(
            state_dict, OptimStateKeyType.PARAM_NAME, self.model, optim=optimizer
        )
        self.optim_wrapper.load_state_dict(
            FSDP.optim_state_dict_to_load(self.model, optimizer, named)
        )

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        """Gather the state in rank 0, which writes it completely or not at all."""
        with whole_file(filename) if is_main_process() else nullcontext(filename) as unfinished:
            super().save_checkpoint(unfinished, **kwargs)


def _clip(wrapper: OptimWrapper, model: FSDP) -> None:
    norm = model.clip_grad_norm_(**wrapper.clip_grad_kwargs)
    wrapper.message_hub.update_scalar(f'train/{wrapper.grad_name}', float(norm))
