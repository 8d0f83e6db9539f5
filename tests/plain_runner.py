"""Run code as where nothing of OpenMMLab is installed."""

import subprocess
import sys

# Of the packages named here, none is found: the models need torch and einops only.
HIDE = """
import importlib.util, sys
import torch
HIDDEN = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm',
          'cv2', 'addict', 'yapf', 'matplotlib'} - set(sys.argv[1:])
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in HIDDEN:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: (
    None if name.split('.')[0] in HIDDEN else find_spec(name, *package))
sys.meta_path.insert(0, Hide())
"""


def run_without_openmmlab(code, cwd, show=()):
    """Run Python code where OpenMMLab cannot be found; return its output.

    Packages in ``show`` are not hidden.
    """
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', HIDE + code, *show],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout
