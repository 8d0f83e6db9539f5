"""Run the suite's tools as a user does."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_tool(tool: str, *args, cwd: Path, ok: bool = True) -> str:
    """Run tools/TOOL in ``cwd``; return what it printed.

    Fails unless the tool succeeds (or, with ``ok`` False, unless it fails).
    """
    command = [str(ROOT / 'tools' / tool), *map(str, args)]
    if tool.endswith('.py'):
        command.insert(0, sys.executable)
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, 'PYTHON': sys.executable},  # of the shell scripts
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    # The cause comes last: a log's end survives where reports are cut.
    assert (result.returncode == 0) == ok, result.stdout[-5000:]
    return result.stdout
