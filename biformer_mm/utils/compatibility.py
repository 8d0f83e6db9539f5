"""Versions of the packages that biformer_mm works with, checked on import.

Versions are read without importing the packages: that takes seconds, and an
unsuitable version may fail there first.
"""

import runpy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, NamedTuple, Optional

from packaging.version import Version


class Supported(NamedTuple):
    """A range of versions, from ``lower`` up to but not including ``upper``."""

    lower: str
    upper: str
    distributions: str  # names on PyPI: the original, the maintained fork


SUPPORTED: Dict[str, Supported] = {
    'torch': Supported('2.1', '3', 'torch'),
    'mmengine': Supported('0.10', '1', 'mmengine or onedl-mmengine'),
    'mmcv': Supported('2.0.1', '3', 'mmcv or onedl-mmcv'),
    'mmdet': Supported('3.3', '4', 'mmdet or onedl-mmdetection'),
    'mmseg': Supported('1.2', '2', 'mmsegmentation or onedl-mmsegmentation'),
    'mmpretrain': Supported('1.2', '2', 'mmpretrain or onedl-mmpretrain'),
}


def check_packages() -> None:
    """Check the versions of installed packages; any may be missing.

    A framework out of its range is a warning, as it may not be used.

    Raises:
        ImportError: torch or mmengine is out of its range.
    """
    for module, (lower, upper, distributions) in SUPPORTED.items():
        version = installed_version(module)
        # A pre-release counts as its release, which is what it is built from.
        release = version and Version(version).release
        if release and not Version(lower).release <= release < Version(upper).release:
            text = (
                f'biformer_mm works with {module}>={lower},<{upper}, found '
                f'{module} {version}: install {distributions} in that range '
                "(README, 'Versions', has sets that fit together)"
            )
            if module in ('torch', 'mmengine'):
                raise ImportError(text)
            warnings.warn(text, stacklevel=3)


def installed_version(module: str) -> Optional[str]:
    """Return the version of a package, or None if it is not installed.

    It is read from the package's version.py: pip's metadata may name the
    original, the fork or, with one installed over the other, both.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:  # no origin: a folder of that name
        return None
    path = Path(spec.origin).with_name('version.py')
    return runpy.run_path(str(path))['__version__']
