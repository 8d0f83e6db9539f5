"""A checkout after `make demo`, in which the pages' commands are run.

It differs from a checkout in sizes and lengths: the configs are the suite's by
name and content, shrunk as for tests/matrix and with BiFormer-T in the place of
BiFormer-S, and the data are a few generated pictures in the layouts that the
configs name. VALUES says what stands for the words in capital letters.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Dict, Set

import golden
import torch
from config_checks import NAMES, build, load
from documentation.blocks import BLOCKS
from matrix.data import make_data
from matrix.shrink import LENGTHS, shrink
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.datasets import make_shapes

DEMO = 'retinanet_biformer_demo'
# The config that CONFIG stands for; {page: ...}, {'': all others}.
CONFIG = {
    'docs/get_started.md': 'upernet_biformer_t_160k',
    'docs/inference.md': 'mask_rcnn_biformer_s_1x',
    '': DEMO,
}
# What stands for a word of the pages. CHECKPOINT is that of the config that
# the command names.
_FEW = (
    '--cfg-options train_cfg.max_epochs=1 '
    'train_dataloader.dataset.indices=2 val_dataloader.dataset.indices=2'
)
VALUES = {
    'IMAGE...': 'photos/a.jpg photos/b.jpg',
    'IMAGE': 'photos/a.jpg',
    'INPUT': 'photos',
    'PHOTOS': 'photos',
    'PICTURE.jpg': 'photos/a.jpg',
    'photo.jpg': 'photos/a.jpg',
    'image.jpg': 'photos/a.jpg',
    'DIR': 'routing',
    'WORK_DIR': f'work_dirs/{DEMO}',
    'RELEASED CHECKPOINT': 'checkpoints/released.pth converted.pth',
    'FILE.pth': 'checkpoints/released.pth',
    'SRC.pth': 'checkpoints/mask_rcnn_biformer_s_1x.pth',
    'DST-xxxxxxxx.pth': 'DST-????????.pth',  # by its hash
    'CHECKPOINT.pth': 'checkpoints/whole_size.pth',
    'PATH': 'checkpoints/biformer_s_in1k.pth',
    'PATH_OR_URL': 'checkpoints/biformer_s_in1k.pth',
    '/path/to/my_data': 'my_data',
    '/path/to/biformer_mm': str(ROOT),
    # Lengths and sizes
    'epoch_12.pth': f'epoch_{LENGTHS["max_epochs"]}.pth',
    'epoch_16.pth': f'epoch_{LENGTHS["max_epochs"]}.pth',
    '800 1344': '96 160',
    '(333,200)': '(96,64)',
    'configs/faster_rcnn_shapes.py': f'configs/faster_rcnn_shapes.py {_FEW}',
}
_WORDS = re.compile(
    '|'.join(
        rf'(?<![\w.$-]){re.escape(word)}(?![\w-])' for word in [*VALUES, 'CONFIG', 'CHECKPOINT']
    )
)
_NAME = re.compile(r'configs/(\w+)\.py|biformer_mm::(\w+)\.py')


def substitute(text: str, page: str) -> str:
    """Put values in the place of the words in capital letters."""
    config = CONFIG.get(page, CONFIG[''])

    def value(match: re.Match) -> str:
        word = match[0]
        if word == 'CONFIG':
            return f'configs/{config}.py'
        if word != 'CHECKPOINT':
            return VALUES[word]
        # Of the last config that was named, in a command before its checkpoint
        named = _NAME.findall(text[: match.start()])
        return f'checkpoints/{"".join(named[-1]) if named else config}.pth'

    return _WORDS.sub(value, text)


def named_configs() -> Set[str]:
    """The suite's configs that the pages' blocks name."""
    known = {name for name in NAMES if '/' not in name}
    found = {a or b for block in BLOCKS for a, b in _NAME.findall(block.runnable)}
    return (found | {*CONFIG.values(), 'biformer_s_in1k'}) & known


def make_small(cfg: Config) -> Config:
    """Shrink a config, and take BiFormer-T for BiFormer-S, whose channels are
    the same."""
    if cfg.model.backbone.get('arch') == 'small':
        cfg.model.backbone.arch = 'tiny'
    return shrink(cfg)


class Sandbox:
    """What the pages share: data, configs, checkpoints, pictures.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        make_data(root)
        (root / 'configs').mkdir()
        (root / 'checkpoints').mkdir()
        for name in named_configs():
            cfg = make_small(load(name))
            cfg.dump(root / 'configs' / f'{name}.py')
            self._write_checkpoint(name, cfg)
        # For code that takes a config of the package, which is not shrunk.
        self._write_checkpoint('whole_size', load('retinanet_biformer_s_1x'))
        self._write_released()
        make_shapes(root / 'some', num_train=2, num_val=1)
        (root / 'photos').mkdir()
        for name, path in zip('ab', sorted((root / 'some').glob('train/*'))):
            shutil.copy(path, root / 'photos' / f'{name}.jpg')

    def _write_checkpoint(self, name: str, cfg: Config) -> None:
        """Weights by chance, as a training writes them."""
        torch.save(
            dict(state_dict=build(cfg).state_dict(), meta={}),
            self.root / 'checkpoints' / f'{name}.pth',
        )

    def _write_released(self) -> None:
        """A segmentor by the authors' names."""
        weights = {
            f'backbone.{name}': value
            for name, value in golden.section(golden.load('backbone_state'), 'state').items()
        }
        weights['decode_head.conv_seg.weight'] = torch.zeros(150, 512, 1, 1)
        torch.save(dict(state_dict=weights), self.root / 'checkpoints' / 'released.pth')

    def checkout(self, folder: Path) -> Path:
        """A folder to run a page's commands in: what is shared is linked."""
        folder.mkdir()
        for name in ('data', 'configs', 'checkpoints', 'photos'):
            (folder / name).symlink_to(self.root / name)
        for name in ('benchmarks', 'docs', 'requirements', 'tools'):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(
            ROOT / 'examples', folder / 'examples', ignore=shutil.ignore_patterns('__pycache__')
        )
        self._write_past(folder / 'work_dirs')
        make_coco_data(folder / 'my_data', self.root / 'data' / 'coco')
        return folder

    def _write_past(self, work_dirs: Path) -> None:
        """What earlier trainings and benchmarks have left."""
        lines = ''.join(
            json.dumps(dict(loss=1 / step, lr=0.1, iter=step, step=step)) + '\n'
            for step in (1, 2, 3)
        )
        for name in (DEMO, 'a', 'b', 'semantic_fpn_biformer_demo'):
            logs = work_dirs / name / '20260101_000000' / 'vis_data'
            logs.mkdir(parents=True)
            (logs / '20260101_000000.json').write_text(lines)
        for name in (DEMO, 'semantic_fpn_biformer_demo'):
            (work_dirs / name / VALUES['epoch_16.pth']).symlink_to(
                self.root / 'checkpoints' / f'{name}.pth'
            )
        shutil.copytree(
            ROOT / 'benchmarks' / 'results', work_dirs / 'benchmarks'
        )  # as pictures are added


def make_own_data(root: Path, layout: str) -> Path:
    """Data as docs/own_dataset.md says, with two classes."""
    make_shapes(root, layout, 4, 2, image_size=64)
    {'coco': _two_categories, 'ade20k': _two_labels, 'imagenet': _two_folders}[layout](root)
    return root


def _two_categories(root: Path) -> None:
    for path in root.glob('annotations/*.json'):
        content = json.loads(path.read_text())
        content['categories'] = [
            dict(id=i, name=name) for i, name in enumerate(('screw', 'nut'), 1)
        ]
        for x in content['annotations']:
            x['category_id'] = 1 + x['category_id'] % 2
        path.write_text(json.dumps(content))


def _two_labels(root: Path) -> None:
    import cv2

    for path in root.glob('annotations/*/*.png'):
        index_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), index_map.clip(max=2))


def _two_folders(root: Path) -> None:
    for split in ('train', 'val'):
        for i, path in enumerate(sorted(root.glob(f'{split}/*/*.jpg'))):
            new = root / split / ('cat', 'dog')[i % 2] / f'{i}.jpg'
            new.parent.mkdir(exist_ok=True)
            path.rename(new)
        for folder in (root / split).iterdir():
            if folder.name not in ('cat', 'dog'):
                shutil.rmtree(folder)


def make_coco_data(root: Path, coco: Path) -> None:
    """my_data of docs/own_dataset.md, with COCO's categories."""
    for split in ('train', 'val'):
        shutil.copytree(coco / f'{split}2017', root / split)
        (root / 'annotations').mkdir(exist_ok=True)
        shutil.copy(
            coco / 'annotations' / f'instances_{split}2017.json',
            root / 'annotations' / f'instances_{split}.json',
        )


def environment(socket: Path, shims: Path) -> Dict[str, str]:
    """Variables in which `python` is the preloaded one."""
    shims.mkdir(exist_ok=True)
    shim = shims / 'python'
    shim.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -SE '
        f'"{Path(__file__).with_name("preloaded.py")}" call '
        f'"{socket}" "$@"\n'
    )
    shim.chmod(0o755)
    return {
        **os.environ,
        'PATH': f'{shims}:{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'OMP_NUM_THREADS': '1',
        'PYTHON': sys.executable,  # of the shell scripts
    }
