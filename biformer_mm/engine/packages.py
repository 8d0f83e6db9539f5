"""Where MMEngine finds the configs of other packages."""
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed


def find_mmseg_configs() -> None:
    """Let configs inherit from 'mmseg::' on the maintained forks too.

    MMEngine looks that prefix up in the distribution 'mmsegmentation', which
    the fork of mmseg renamed; by the module's name it is found in both.
    """
    if not is_installed('mmsegmentation'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'
