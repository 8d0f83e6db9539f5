"""Print the environment for an issue: ``python -m biformer_mm.utils.collect_env``."""

from importlib.util import find_spec

from ..ops import available_backends
from ..version import __version__
from .compatibility import SUPPORTED, installed_version


def collect_env() -> str:
    """Return the versions, the attention's backends and the system, a line each."""
    found = dict(biformer_mm=__version__)
    found.update((name, installed_version(name)) for name in SUPPORTED)
    if find_spec('triton'):
        import triton

        found['triton'] = triton.__version__
    found['backends'] = ', '.join(available_backends())
    if find_spec('mmengine'):
        from mmengine.utils.dl_utils import collect_env as of_system

        found.update(of_system())
    return '\n'.join(f'{name}: {value}' for name, value in found.items())


if __name__ == '__main__':
    print(collect_env())
