"""Types in a config: texts or, in pure-Python configs, classes."""

from typing import Any, Optional

_FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')


def type_name(part: Any) -> str:
    """Return the type of a part of a config as a text config gives it.

    Args:
        part: A dict with a ``type``, or None.

    Returns:
        Name with its scope, which is left out for MMEngine's; '' without a
        type. Modules between them, as in the config that a run of classes
        dumps, are left out.
    """
    kind = (part or {}).get('type') or ''
    if not isinstance(kind, str):
        kind = f'{kind.__module__}.{kind.__name__}'
    scope, _, name = kind.partition('.')
    if not name:
        return scope
    name = name.rpartition('.')[2]
    return name if scope == 'mmengine' else f'{scope}.{name}'


def bare_type_name(part: Any) -> str:
    """Return the same without a scope."""
    return type_name(part).rpartition('.')[2]


def is_pretrained(init_cfg: Any) -> bool:
    """Return whether an ``init_cfg`` names a checkpoint."""
    return bare_type_name(init_cfg) in ('Pretrained', 'PretrainedInit')


def framework_of(model: Any) -> Optional[str]:
    """Return the framework whose class a model's config names; None where it
    names none, or by a text.
    """
    kind = model.get('type') if isinstance(model, dict) else None
    if kind is None or isinstance(kind, str):
        return None
    package = _package(kind)
    return package if package in _FRAMEWORKS else None


def _package(kind: Any) -> str:
    return kind.__module__.split('.')[0]
