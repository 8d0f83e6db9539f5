"""Models of the demo with random weights, one of each kind."""

import torch
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.apis.model import build_model

CONFIGS = dict(
    det='retinanet_biformer_demo',
    mask='mask_rcnn_biformer_demo',
    seg='semantic_fpn_biformer_demo',
    cls='biformer_demo',
)
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]


def save_checkpoints(folder):
    """Save the weights of each model with names and colours of its classes; return the paths."""
    paths = {}
    for task, name in CONFIGS.items():
        torch.manual_seed(0)
        model, _ = build_model(Config.fromfile(ROOT / 'configs' / f'{name}.py'))
        state = model.state_dict()
        if task == 'det':  # scores that count
            state['bbox_head.retina_cls.bias'].zero_()
        count = 5 if task == 'seg' else 4
        meta = dict(classes=tuple(f'kind {i}' for i in range(count)), palette=COLOURS[:count])
        paths[task] = folder / f'{task}.pth'
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=meta)), paths[task])
    return paths
