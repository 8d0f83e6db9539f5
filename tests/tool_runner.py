"""Run the suite's tools as a user does, or as modules."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Union

import torch
from mmengine.utils import digit_version

ROOT = Path(__file__).resolve().parents[1]
# What a tool needs to read a training's checkpoint.
TRUST = [] if digit_version(torch.__version__) >= digit_version('2.6') else ['--trust']


def run_tool(tool: Union[str, Path], *args, cwd: Path, ok: bool = True) -> str:
    """Run tools/TOOL, or the tool of an absolute path, in ``cwd``; return what it printed.

    Fails unless the tool succeeds (or, with ``ok`` False, unless it fails).
    """
    command = [str(ROOT / 'tools' / tool), *map(str, args)]
    if command[0].endswith('.py'):
        command.insert(0, sys.executable)
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, 'PYTHON': sys.executable},  # of the shell scripts
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # The cause comes last: a log's end survives where reports are cut.
    assert (result.returncode == 0) == ok, result.stdout[-5000:]
    return result.stdout


def load_module(path: Path) -> ModuleType:
    """Import a file that is in no package, anew each time."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
