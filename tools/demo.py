"""Train and evaluate a small RetinaNet on generated data: minutes on a CPU."""
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from biformer_mm.datasets import make_shapes

ROOT = Path(__file__).resolve().parents[1]
DATA = Path('data/demo')  # relative to ROOT, as the config has it
WORK_DIR = Path('work_dirs/demo')
CONFIG = 'configs/retinanet_biformer_demo.py'
CHECKPOINT = WORK_DIR / 'epoch_16.pth'
PICTURES = WORK_DIR / 'pictures'


def main() -> None:
    os.chdir(ROOT)
    make_shapes(DATA)
    run('tools/train.py', CONFIG, '--work-dir', WORK_DIR)
    run('tools/test.py', CONFIG, CHECKPOINT, '--work-dir', WORK_DIR,
        '--show-dir', PICTURES)
    metrics = max(WORK_DIR.glob('*/*.json'), key=lambda p: p.stat().st_mtime)
    overview = WORK_DIR / 'overview.jpg'
    write_overview(sorted(PICTURES.glob('*.jpg'))[:12], overview)
    print(f'''
bbox mAP on the held-out images: {read_map(metrics):.3f}
checkpoint   {CHECKPOINT}
metrics      {metrics}
pictures     {PICTURES}/  (ground truth left, predictions right)
             {overview}''')


def run(*command) -> None:
    """Run one of the tools; end with its status if it fails."""
    status = subprocess.run([sys.executable, *map(str, command)]).returncode
    if status:
        sys.exit(status)


def read_map(metrics: Path) -> float:
    return json.loads(metrics.read_text())['coco/bbox_mAP']


def write_overview(pictures, path: Path, columns: int = 3) -> None:
    """Tile pictures of one size, row by row."""
    tiles = [cv2.imread(str(p)) for p in pictures]
    rows = [
        np.hstack(tiles[i:i + columns]) for i in range(0, len(tiles), columns)
    ]
    cv2.imwrite(str(path), np.vstack(rows))


if __name__ == '__main__':
    main()
