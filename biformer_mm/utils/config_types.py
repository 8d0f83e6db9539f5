"""Read the types in a config: texts or, in pure-Python configs, classes."""

from typing import Any, Optional

_FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')


def type_name(part: Any) -> str:
    """Return the type of a part of a config as a text config gives it.

    Args:
        part: A dict with a ``type``, or None.

    Returns:
        Name with its scope, without MMEngine's; '' without a type. Modules
        between scope and name, as a run dumps them for classes, are left out.
    """
    kind = part.get('type') if isinstance(part, dict) else None
    if not isinstance(kind, str):
        if not hasattr(kind, '__name__'):
            return ''
        kind = f'{kind.__module__}.{kind.__name__}'
    scope, _, name = kind.partition('.')
    if not name:
        return scope
    name = name.rpartition('.')[2]
    return name if scope == 'mmengine' else f'{scope}.{name}'


def bare_type_name(part: Any) -> str:
    """Return the type of a part of a config without its scope."""
    return type_name(part).rpartition('.')[2]


def is_pretrained(init_cfg: Any) -> bool:
    """Return whether an ``init_cfg`` names a checkpoint."""
    return bare_type_name(init_cfg) in ('Pretrained', 'PretrainedInit')


def framework_of(model: Any) -> Optional[str]:
    """Return the framework of the class that a model's config names.

    Returns:
        'mmdet', 'mmseg' or 'mmpretrain'; None if it is another package, or the
        type is a text.
    """
    kind = model.get('type') if isinstance(model, dict) else None
    if kind is None or isinstance(kind, str):
        return None
    package = getattr(kind, '__module__', '').split('.')[0]
    return package if package in _FRAMEWORKS else None
