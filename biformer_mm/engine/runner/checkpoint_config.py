"""Compare the config that a checkpoint was trained with with the run's."""

import ast
from typing import Any, Dict, Iterator, Tuple

from mmengine.config import Config

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

_MOST_SHOWN = 5
_MISSING = 'the default'
# What matters in training only, what chooses among equal computations, and what an evaluation may
# choose.
_LEFT_OUT = {
    'train_cfg',
    'test_cfg',
    'init_cfg',
    'pretrained',
    'frozen_stages',
    'norm_eval',
    'with_cp',
    'compile',
    'attn_backend',
    'ignore_index',
    'sampler',
    'dn_cfg',
    # of data preprocessors
    'batch_augments',
    'num_classes',
    'to_onehot',
    'non_blocking',
    'size',
    'seg_pad_val',
    'seg_pad_value',
}


def compare_config(path: str, text: Any, cfg: Config) -> Iterator[Problem]:
    """Find settings of the model without weights that differ from the checkpoint's.

    Such as ``num_regions`` of BiFormer, or mean and std: the weights fit, and the figure is
    another.

    Args:
        path: The checkpoint.
        text: Its config as MMEngine saves it; what cannot be read as data is passed over.
        cfg: The run's config.

    Yields:
        ``other-config`` (warning).
    """
    try:
        theirs = _settings(read_config_text(text))
        # The same text of ours has the same types of values.
        model = {key: cfg[key] for key in ('model', 'data_preprocessor') if cfg.get(key)}
        ours = _settings(read_config_text(Config(model, format_python_code=False).pretty_text))
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return
    differing = [
        f'{key}={theirs.get(key, _MISSING)} (here {ours.get(key, _MISSING)})'
        for key in dict.fromkeys([*theirs, *ours])
        if theirs.get(key, _MISSING) != ours.get(key, _MISSING)
    ]
    if theirs and differing:
        more = len(differing) - _MOST_SHOWN
        yield Problem(
            'other-config',
            path,
            f'was trained with {", ".join(differing[:_MOST_SHOWN])}'
            f'{f" and {more} more" if more > 0 else ""}; its weights fit, but figures may be '
            'others; use the config that it was trained with, unless this is meant',
        )


def read_config_text(text: Any) -> Dict[str, Any]:
    """Read the text of a config as MMEngine writes it, without running it.

    Args:
        text: Assignments of literals, calls of ``dict`` and names of classes.

    Returns:
        Values by name. Tuples become lists, and classes texts.

    Raises:
        SyntaxError: It is not Python.
        TypeError: It is not text.
        ValueError: It has something else.
    """
    if not isinstance(text, str):
        raise TypeError(f'a config must be text; got {type(text).__name__}')
    values = {}
    for line in ast.parse(text).body:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            raise ValueError(f'a config must be assignments; line {line.lineno} is none')
        values[line.targets[0].id] = _value(line.value)
    return values


def _value(node: ast.AST) -> Any:
    """Return the value of a literal, of ``dict(...)``, or the text of a dotted name."""
    if isinstance(node, ast.Call) and _value(node.func) == 'dict' and not node.args:
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {ast.literal_eval(k): _value(v) for k, v in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f'{_value(node.value)}.{node.attr}'
    return ast.literal_eval(node)


def _settings(cfg: Dict[str, Any]) -> Dict[str, Any]:
    """Return the settings of model and data preprocessor that a figure depends on, by key."""
    model = cfg.get('model') or {}
    while isinstance(model.get('module'), dict):  # of test-time augmentation
        model = model['module']
    model = dict(model)
    preprocessor = model.pop('data_preprocessor', None) or cfg.get('data_preprocessor') or {}
    return {**dict(_flat('model', model)), **dict(_flat('data_preprocessor', preprocessor))}


def _flat(key: str, value: Any) -> Iterator[Tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        name = str(name)
        if name == 'type':
            kind = bare_type_name(value)
            yield f'{key}.type', 'BN' if kind == 'SyncBN' else kind  # the same but in training
        elif name not in _LEFT_OUT and 'drop' not in name and not name.startswith('loss'):
            yield from _flat(f'{key}.{name}', inner)
