"""Train and evaluate a small model on generated data: minutes on a CPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from biformer_mm.datasets import make_shapes
from biformer_mm.utils.cli import make_parser, usage_errors
from biformer_mm.utils.errors import explained

ROOT = Path(__file__).resolve().parents[1]


class Task(NamedTuple):
    config: str
    data: dict  # make_shapes' arguments
    metric: str  # as the evaluator names it
    teacher: str = ''  # the task whose model makes the label maps


COCO = dict(layout='coco')
ADE20K = dict(layout='ade20k', num_train=1600, image_size=96)
IMAGENET = dict(layout='imagenet', num_train=1600, image_size=64)

TASKS = {
    'retinanet': Task('retinanet_biformer_demo', COCO, 'coco/bbox_mAP'),
    'mask_rcnn': Task('mask_rcnn_biformer_demo', COCO, 'coco/segm_mAP'),
    'semantic_fpn': Task('semantic_fpn_biformer_demo', ADE20K, 'mIoU'),
    'upernet': Task('upernet_biformer_demo', ADE20K, 'mIoU'),
    'classification': Task('biformer_demo', IMAGENET, 'accuracy/top1'),
    'token_label': Task('biformer_token_label_demo', IMAGENET, 'accuracy/top1', 'classification'),
}


def main() -> None:
    parser = make_parser(__doc__, 'python tools/demo.py mask_rcnn')
    parser.add_argument('task', nargs='?', default='retinanet', choices=list(TASKS))
    task = TASKS[parser.parse_args().task]

    os.chdir(ROOT)  # the configs' paths start here
    data = Path('data/shapes') / task.data['layout']
    with usage_errors('demo.py'), explained(
        f'{data} must be free for the data, or hold it already',
        'move away what is there, or free its disk',
    ):
        make_shapes(data, **task.data)
    if task.teacher:
        teach(TASKS[task.teacher], data)
    config, work_dir, checkpoint = train(task)
    pictures = work_dir / 'pictures'
    # Torch before 2.6 needs --trust to read a training's checkpoint.
    run(
        'tools/test.py',
        config,
        checkpoint,
        '--trust',
        '--work-dir',
        work_dir,
        '--show-dir',
        pictures,
    )

    metrics = max(work_dir.glob('*/*.json'), key=lambda p: p.stat().st_mtime)
    value = json.loads(metrics.read_text())[task.metric]
    overview = work_dir / 'overview.jpg'
    found = sorted(p for p in pictures.rglob('*') if p.suffix in ('.jpg', '.png'))
    write_overview(found[:12], overview)
    print(f"""
{task.metric} on the held-out images: {value:.3f}
checkpoint   {checkpoint}
metrics      {metrics}
pictures     {pictures}/  (ground truth and predictions)
             {overview}""")


def train(task: Task) -> tuple:
    """Train, and return the config, the folder and the checkpoint of the training."""
    config = f'configs/{task.config}.py'
    work_dir = Path('work_dirs') / task.config
    run('tools/train.py', config, '--work-dir', work_dir)
    return config, work_dir, work_dir / 'epoch_16.pth'


def teach(teacher: Task, data: Path) -> None:
    """Train another task's model, and make the label maps of token labelling with it."""
    config, _, checkpoint = train(teacher)
    labels = data.with_name('token_labels')
    shutil.rmtree(labels, ignore_errors=True)  # of another training
    run(
        'tools/dataset_tools/make_token_labels.py',
        config,
        checkpoint,
        data / 'train',
        '--trust',
        '--out',
        labels,
        '--shape',
        teacher.data['image_size'],
    )


def run(*command) -> None:
    """Run one of the tools; end with its status if it fails."""
    status = subprocess.run([sys.executable, *map(str, command)]).returncode
    if status:
        sys.exit(status)


def write_overview(pictures, path: Path, columns: int = 3) -> None:
    """Tile pictures of one size, row by row."""
    tiles = [cv2.imread(str(p)) for p in pictures]
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), np.vstack(rows))


if __name__ == '__main__':
    main()
