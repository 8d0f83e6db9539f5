"""Layer-wise decay of learning rates, for the configs of all frameworks."""

from typing import Dict, List, Optional, Union

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Lower the learning rates of the backbone's layers, the more the earlier they are.

    A parameter of depth i of n has ``layer_decay_rate ** (n - 1 - i)`` times the rate that it has
    without the decay. Neck and heads have depth n - 1, so their rates stay.

    Args:
        optim_wrapper_cfg: Config of the optimiser wrapper. The optimiser must have ``lr``.
        paramwise_cfg: ``layer_decay_rate``, in (0, 1], and the settings of MMEngine's default
            constructor, such as ``custom_keys`` and ``norm_decay_mult``.

    Raises:
        ValueError: ``layer_decay_rate`` is missing or not in (0, 1], or there is no ``lr``. When
            called, if the model has no ``backbone`` with the method ``get_layer_depth``.
    """

    def __init__(self, optim_wrapper_cfg: Dict, paramwise_cfg: Optional[Dict] = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.layer_decay_rate must be in (0, 1]; got {rate}'
            )
        if self.base_lr is None:
            raise ValueError(
                'layer-wise decay multiplies optim_wrapper.optimizer.lr, which is missing; set it'
            )
        self.rate = rate

    def add_params(
        self,
        params: List[Dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: Union[int, float, None] = None,
    ) -> None:
        """Add the parameters of a module to the groups, one group each.

        MMEngine calls this with the model, and then recursively with its children.

        Args:
            params: Groups, extended in place. ``lr_scale`` is the factor of the decay.
            module: The model or a part of it.
            prefix: Name of the part, '' for the model.
            is_dcn_module: See MMEngine's constructor.
        """
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        get_layer_depth = getattr(getattr(module, 'backbone', None), 'get_layer_depth', None)
        if get_layer_depth is None:
            raise ValueError(
                'layer-wise decay needs a model whose backbone has the method get_layer_depth, '
                f'such as BiFormer; got {type(module).__name__}'
            )
        names = {id(param): name for name, param in module.named_parameters()}
        for group in params:
            (param,) = group['params']
            depth, number = get_layer_depth(names[id(param)], 'backbone.')
            group['lr_scale'] = self.rate ** (number - 1 - depth)
            group['lr'] = group.get('lr', self.base_lr) * group['lr_scale']
