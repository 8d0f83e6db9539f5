"""The packages that biformer_mm works with, checked on import.

Versions are read without importing the packages, which takes seconds and is
where an unsuitable one would fail first.
"""

import re
import runpy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Tuple


class Supported(NamedTuple):
    """Versions from ``lower`` up to, not including, ``upper``."""

    lower: str
    upper: str
    distributions: str  # what pip calls it: the original, the maintained fork


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
        if version and not (_numbers(lower) <= _numbers(version) < _numbers(upper)):
            text = (
                f'biformer_mm works with {module}>={lower},<{upper}, found '
                f'{module} {version}: install {distributions} in that range '
                "(README, 'Versions', has sets that fit together)"
            )
            if module in ('torch', 'mmengine'):
                raise ImportError(text)
            warnings.warn(text)


def installed_version(module: str) -> Optional[str]:
    """Version of a package; None if it is not installed.

    It is read from the package's version.py: pip's metadata may name the
    original, the fork or, with one installed over the other, both.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:  # none: a mere folder of that name
        return None
    path = Path(spec.origin).with_name('version.py')
    return runpy.run_path(str(path))['__version__']


def _numbers(version: str) -> Tuple[int, ...]:
    """(2, 1, 2) of '2.1.2+cu121'; a pre-release counts as its release."""
    release = re.match(r'\d+(\.\d+)*', version).group()
    return tuple(map(int, release.split('.')))
