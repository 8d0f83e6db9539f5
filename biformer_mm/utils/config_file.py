"""Read a config, and refuse fields that MMEngine's runner would trip over."""

import difflib
import os.path as osp
from pathlib import Path
from typing import Any, Dict

from mmengine.config import Config

from biformer_mm.utils import register_all_modules
from biformer_mm.utils.config_types import framework_of
from biformer_mm.utils.errors import UsageError, explained

_SPLITS = ('train', 'val', 'test')
_KINDS = {dict: 'a dict', list: 'a list', str: 'text', int: 'an integer'}
# The types that MMEngine's runner takes for a field, unless it is None or absent.
_FIELDS = {
    (dict,): (
        'model',
        'data_preprocessor',
        'optim_wrapper',
        'auto_scale_lr',
        'default_hooks',
        'env_cfg',
        'log_processor',
        'randomness',
        'visualizer',
        'model_wrapper_cfg',
        *(
            f'{split}_{part}'
            for split in _SPLITS
            for part in ('cfg', 'dataloader', 'dataloader.dataset')
        ),
    ),
    (dict, list): ('param_scheduler', 'val_evaluator', 'test_evaluator'),
    (list,): ('custom_hooks',),
    (str,): (
        'default_scope',
        'work_dir',
        'load_from',
        *(
            f'{split}_dataloader.dataset.{part}'
            for split in _SPLITS
            for part in ('data_root', 'ann_file')
        ),
    ),
    (int,): (
        *(
            f'{split}_dataloader.{part}'
            for split in _SPLITS
            for part in ('batch_size', 'num_workers')
        ),
        'train_cfg.max_epochs',
        'train_cfg.max_iters',
        'train_cfg.val_interval',
        'optim_wrapper.accumulative_counts',
    ),
}
# The runner divides by these.
_DIVISORS = (
    'train_cfg.val_interval',
    'optim_wrapper.accumulative_counts',
    *(f'{split}_dataloader.batch_size' for split in _SPLITS),
)


def read_config(path: str, options: Dict) -> Config:
    """Read a config and override fields of it.

    First calls :func:`biformer_mm.utils.register_all_modules`, as the config
    may name our hooks.

    Raises:
        UsageError: The file does not exist, is not a config or cannot be read,
            or a field cannot be overridden.
    """
    register_all_modules()
    if not osp.isfile(path):
        folder = Path(path).parent
        names = [p.name for p in folder.glob('*.py') if p.is_file()] if osp.isdir(folder) else []
        close = difflib.get_close_matches(Path(path).name, names)
        hint = (
            f'did you mean {folder / close[0]}?' if close else "the suite's configs are in configs/"
        )
        raise UsageError(f'there is no config {path}; {hint}')
    if not path.endswith(('.py', '.json', '.yaml', '.yml')):
        raise UsageError(
            f'a config is a .py, .json or .yaml file; got {path}: give one of configs/'
        )
    with explained(
        f'{path} must be a config that can be read', 'correct it, or start from one of configs/'
    ):
        try:
            cfg = Config.fromfile(path)
        except SystemExit as error:  # a status, which could be 0
            raise RuntimeError(f'it exits, with {error.code}') from error
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise UsageError(
            f'--cfg-options {options} do not fit {path} '
            f'({type(error).__name__}: {error}); name fields '
            'that it has, or new ones of its dicts'
        ) from error
    _check_fields(cfg)
    framework = framework_of(cfg.get('model'))
    if framework and cfg.get('default_scope') is None:
        cfg.default_scope = framework  # pure-Python configs need none
    return cfg


def _check_fields(cfg: Config) -> None:
    """Refuse fields whose type MMEngine does not take.

    Raises:
        UsageError: There is such a field; the message names it.
    """
    for kinds, names in _FIELDS.items():
        for name in names:
            value = _field(cfg, name)
            if value is not None and not isinstance(value, kinds):
                kind = ' or '.join(_KINDS[kind] for kind in kinds)
                raise UsageError(
                    f'{name} of a config must be {kind}; got '
                    f'{value!r}; correct {cfg.filename} or '
                    '--cfg-options'
                )
    for name in _DIVISORS:
        value = _field(cfg, name)
        if value is not None and value < 1:
            raise UsageError(
                f'{name} of a config must be 1 or more; got '
                f'{value}; correct {cfg.filename} or --cfg-options'
            )
    for name, hook in (cfg.get('default_hooks') or {}).items():
        _check_hook(f'default_hooks.{name}', hook or {}, cfg)
    for number, hook in enumerate(cfg.get('custom_hooks') or ()):
        _check_hook(f'custom_hooks.{number}', hook, cfg)


def _check_hook(name: str, hook: Any, cfg: Config) -> None:
    if not isinstance(hook, dict):
        raise UsageError(
            f'{name} of a config must be a dict; got {hook!r}; '
            f'correct {cfg.filename} or --cfg-options'
        )


def _field(cfg: Config, name: str) -> Any:
    """Return a field by its dotted name, or None."""
    part = cfg
    for key in name.split('.'):
        if not isinstance(part, (dict, Config)):
            return None
        part = part.get(key)
    return part
