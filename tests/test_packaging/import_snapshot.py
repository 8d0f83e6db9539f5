"""Print what statements change of MMEngine, torch and the process.

Allowed are entries of ours in registries, ops in our namespace, functions of
ours that torch.fx records as they are, and modules that are loaded.
"""

import gc
import logging
import signal
import sys
import types
import warnings

warnings.simplefilter('ignore')

import mmengine.analysis  # noqa: F401
import mmengine.hub  # noqa: F401
import mmengine.runner  # noqa: F401
import torch
import torch.utils.flop_counter

TABLES = (dict, list, set)
WATCHED = ('mmengine', 'torch')


def is_ours(*things):
    return any('biformer_mm' in str(x) for x in things)


def owner(value):
    """What names the owner of an entry; torch.fx has the globals of a function's module."""
    name = value.get('__name__') if isinstance(value, dict) else value
    return name if isinstance(name, str) else ''


def entries(table):
    """What is foreign in a table: of a dict, whatever has a foreign key."""
    if isinstance(table, dict):
        items = [
            (str(key), str(id(value)))
            for key, value in list(table.items())
            if not is_ours(key, owner(value))
        ]
    else:
        items = [(str(x),) for x in list(table) if not is_ours(x)]
    return sorted(items)


def attributes(name, owner, found):
    for key, value in list(vars(owner).items()):
        if isinstance(value, types.ModuleType) or is_ours(key, type(value)):
            continue
        if key in ('__annotations__', '__builtins__', '__warningregistry__', '_abc_impl'):
            continue
        path = f'{name}.{key}'
        found[path] = id(value)
        if isinstance(value, TABLES):
            found[f'{path} (entries)'] = entries(value)
        elif isinstance(value, type) and value.__module__ == name:
            attributes(path, value, found)


def snapshot():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] in WATCHED and isinstance(module, types.ModuleType) and name in KNOWN:
            attributes(name, module, found)
    for registry in gc.get_objects():
        if type(registry).__name__ == 'Registry':
            found[f'registry {registry.name} {registry.scope}'] = [
                (name, str(id(value)))
                for name, value in sorted(registry.module_dict.items())
                if not is_ours(value.__module__)
            ]
    for name in ('SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGCHLD'):
        found[name] = str(signal.getsignal(getattr(signal, name)))
    root = logging.getLogger()
    found['logging level'] = str((root.level, root.handlers, logging.raiseExceptions))
    found['warnings.filters'] = str(warnings.filters)
    found['torch threads'] = str(torch.get_num_threads())
    backends = torch.backends
    found['torch benchmark'] = str(
        (
            backends.cudnn.benchmark,
            backends.cudnn.deterministic,
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            backends.cuda.matmul.allow_tf32,
            torch.is_grad_enabled(),
        )
    )
    return found


KNOWN = set(sys.modules)
first, *rest = sys.argv[1:]
scope = {}
if rest:
    exec(first, scope)
    first = rest[0]
before = snapshot()
exec(first, scope)
after = snapshot()
for name in sorted(set(before) | set(after)):
    if before.get(name) != after.get(name):
        old, new = before.get(name), after.get(name)
        if isinstance(old, list) and isinstance(new, list):
            old, new = ([x for x in old if x not in new], [x for x in new if x not in old])
        print(name, old, '->', new)
