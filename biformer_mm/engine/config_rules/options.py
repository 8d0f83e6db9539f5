"""Refuse --cfg-options that change nothing."""

import difflib
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.config import Config

from biformer_mm.datasets.checks.problems import Problem

_SPLITS = ('train', 'val', 'test')
# What MMEngine's runners and the tools read of a config.
FIELDS = (
    'model',
    'data_preprocessor',
    *(f'{split}_{part}' for part in ('dataloader', 'cfg') for split in _SPLITS),
    'val_evaluator',
    'test_evaluator',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'default_hooks',
    'custom_hooks',
    'custom_imports',
    'default_scope',
    'work_dir',
    'experiment_name',
    'load_from',
    'resume',
    'launcher',
    'env_cfg',
    'log_level',
    'log_processor',
    'visualizer',
    'randomness',
    'runner_type',
    'strategy',
    'model_wrapper_cfg',
    'find_unused_parameters',
    'sync_bn',
    'compile',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'init_weights_for_test_or_val',
    'tta_model',
    'tta_pipeline',
)
# Common names of variables that hold what a field of another name has.
_LENGTHS = dict(max_epochs=['train_cfg.max_epochs'], max_iters=['train_cfg.max_iters'])


def check_options(cfg: Config, options: Dict) -> Iterator[Problem]:
    """Refuse options whose first part is no field that a run reads.

    Most such fields are variables of the config file, whose values were copied into other fields
    when the file was read.

    Args:
        cfg: The config with the options in it.
        options: The options, or their keys.
    """
    for key in options:
        name, _, rest = key.partition('.')
        own = 'data_preprocessor' in (cfg.get('model') or {})
        if name == 'data_preprocessor' and own:  # the runner prefers the model's
            places = ['model.data_preprocessor']
        elif name in FIELDS:
            continue
        else:
            places = _places(cfg, name) or _LENGTHS.get(name, [])
        close = difflib.get_close_matches(name, FIELDS, 1)
        if places:
            cure = 'set ' + ', '.join(f'{place}.{rest}' if rest else place for place in places)
        elif close:
            cure = 'did you mean ' + '.'.join([close[0], rest] if rest else close) + '?'
        else:
            cure = 'name a field that the run reads, such as model or train_dataloader'
        yield Problem(
            'option-without-effect', key, f'a run does not read {name}, so nothing changes; {cure}'
        )


def _places(cfg: Config, variable: str) -> List[str]:
    """List the fields that hold the value that a variable of the config file has.

    Of equal values, those whose key is the end of the variable's name come alone: 16 may be a
    number of epochs and of images.
    """
    try:
        file = Config.fromfile(cfg.filename)  # as cfg has the new value
        value = file[variable]
    except Exception:  # of many kinds: there may be no file, or no such variable
        return []
    found = [
        key
        for field in FIELDS
        if field in file and field not in ('tta_model', 'tta_pipeline')
        for key, part in _parts(field, file[field])
        if type(part) is type(value) and part == value
    ]
    alike = [key for key in found if variable.endswith(key.rpartition('.')[2])]
    return (alike or ([] if isinstance(value, (bool, int, float)) else found))[:6]


def _parts(key: str, value: Any) -> Iterator[Tuple[str, Any]]:
    """Yield a value and all that is in it."""
    yield key, value
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple)):
        items = enumerate(value)
    for name, inner in items:
        yield from _parts(f'{key}.{name}', inner)
