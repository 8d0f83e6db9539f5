"""What the checkout holds for setup.py and for the installed package."""

import filecmp
import subprocess
import sys

from tool_runner import ROOT


def test_links_are_the_checkouts_files():
    for name in ('configs/retinanet_biformer_s_1x.py', 'tools/train.py', 'model-index.yml'):
        linked = ROOT / 'biformer_mm' / '.mim' / name
        assert filecmp.cmp(linked, ROOT / name, shallow=False)


def test_setup_imports_no_torch(tmp_path):
    code = (
        'import runpy, sys; sys.modules["torch"] = None; '
        'sys.argv = ["setup.py", "--name"]; '
        f'runpy.run_path({str(ROOT / "setup.py")!r})'
    )
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
