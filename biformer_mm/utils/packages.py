"""Where MMEngine finds the configs of other packages, and ours."""

from pathlib import Path
from typing import Optional, Tuple

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import hub
from mmengine.utils import check_file_exist, is_installed

_PREFIX = 'biformer_mm::'
_CONFIGS = Path(__file__).resolve().parents[1] / '.mim' / 'configs'
_base_path = Config._get_cfg_path
_hub_name = hub._get_package_and_cfg_path


def find_mmseg_configs() -> None:
    """Let configs inherit from 'mmseg::' on the maintained forks too.

    MMEngine looks that prefix up in the distribution 'mmsegmentation', which
    the fork of mmseg renamed; by the module's name it is found in both.
    """
    if not is_installed('mmsegmentation'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def find_own_configs() -> None:
    """Let configs inherit from 'biformer_mm::' and mmengine.hub read them.

    MMEngine has a fixed list of packages, and takes no name without a folder,
    which ours are. Two of its private functions are therefore replaced; other
    names than ours go to the originals.
    """
    Config._get_cfg_path = staticmethod(_get_cfg_path)
    hub._get_package_and_cfg_path = _get_package_and_cfg_path


def _get_cfg_path(cfg_path: str, filename: str) -> Tuple[str, Optional[str]]:
    """Path and scope of an entry of ``_base_``.

    The scope is none: ours is no registry, and our configs use those of
    their framework.
    """
    if not cfg_path.startswith(_PREFIX):
        return _base_path(cfg_path, filename)
    path = str(_CONFIGS / cfg_path[len(_PREFIX) :])
    check_file_exist(path, f'there is no config {cfg_path}; biformer_mm has those in {_CONFIGS}')
    return path, None


def _get_package_and_cfg_path(cfg_path: str) -> Tuple[str, str]:
    """Name that finds the package, and the config's path in it.

    The name is a module's: by the distribution's, MMEngine 0.10.7 looks for an
    editable install in site-packages.
    """
    if not cfg_path.startswith(_PREFIX):
        return _hub_name(cfg_path)
    return 'biformer_mm.version', cfg_path[len(_PREFIX) :]
