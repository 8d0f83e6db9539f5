"""Check that the optimiser's constructor can serve the model."""

from typing import Dict, Iterator, Sequence

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

# Of mmdet and mmseg. They number the layers of the backbones that they know by name.
_FOR_OTHERS = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')


def check_layer_decay(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse layer-wise decay by constructors that do not know BiFormer's layers."""
    wrapper = cfg.get('optim_wrapper') or {}
    constructor = bare_type_name(dict(type=wrapper.get('constructor')))
    backbone = bare_type_name((cfg.get('model') or {}).get('backbone'))
    if 'train' in splits and constructor in _FOR_OTHERS and backbone == 'BiFormer':
        rate = (wrapper.get('paramwise_cfg') or {}).get('decay_rate', 0.9)
        yield Problem(
            'layer-decay',
            'optim_wrapper.constructor',
            f'{constructor} does not know the layers of BiFormer; set '
            'optim_wrapper.constructor=LayerDecayOptimWrapperConstructor and '
            f'optim_wrapper.paramwise_cfg.layer_decay_rate={rate}',
        )


RULES = (check_layer_decay,)
