"""The configs that the pages print, completed where a page prints a part."""

from pathlib import Path

from documentation.blocks import Block, runnable
from documentation.sandbox import CONFIG, DEMO, make_own_data, substitute
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.utils import register_all_modules

# What a part of a config is put on top of, as the page says.
BASES = {
    'README.md': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'docs/ecosystem.md': f'{ROOT}/configs/{DEMO}.py',
    'docs/faults.md': f'{ROOT}/configs/{DEMO}.py',
    'docs/routing.md': f'{ROOT}/configs/{DEMO}.py',
    'docs/weights.md': f'{ROOT}/configs/retinanet_biformer_s_1x.py',
}
CONFIGS = runnable('python', config=True)
OWN = 'docs/own_dataset.md'


def read_config(block: Block, folder: Path) -> Config:
    """Write a block into a folder and read it as a config."""
    text = block.text
    if '_base_' not in text:
        text = _in_boxes(block) if block.page == OWN else f'_base_ = {BASES[block.page]!r}\n{text}'
    # By its name it is known for one of the demo's, which are small.
    kind = '_demo' if CONFIG[''] in text else ''
    path = folder / f'printed{kind}.py'
    path.write_text(substitute(text, block.page))
    register_all_modules()
    return Config.fromfile(path)


def _in_boxes(block: Block) -> str:
    """Masks in place of the boxes of the first config of the page."""
    boxes = next(x for x in CONFIGS if x.page == OWN).text
    model = 'model = dict(bbox_head=dict(num_classes=2))\n'
    assert model in boxes and block.text.startswith('model = ')
    return boxes.replace(model, block.text).replace('retinanet', 'mask_rcnn')


def make_data(block: Block, root: Path) -> None:
    """Make the page's my_data, in the layout that a block reads."""
    layout = (
        'ade20k'
        if 'BaseSegDataset' in block.text
        else 'imagenet'
        if 'CustomDataset' in block.text
        else 'coco'
    )
    make_own_data(root, layout)
