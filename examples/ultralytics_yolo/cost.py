"""Parameters and FLOPs of YOLOs with and without attention, as a table. Needs ultralytics."""

import torch
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from biformer_mm.analysis.cost import make_counter
from biformer_mm.ultralytics import add_attention, register

SIZE = 640  # pixels
# Regions per side on the maps of stride 16 and 32: two of the backbone, one of the neck.
RECIPES = {'yolo11': {6: 8, 10: 4, 13: 8}, 'yolov8': {6: 8, 9: 4, 12: 8}}


@torch.no_grad()
def cost(file):
    """Parameters in millions, and GFLOPs: a multiplication and an addition count as two."""
    model = DetectionModel(yaml_model_load(file), verbose=False).eval()
    with make_counter() as counter:
        model(torch.zeros(1, 3, SIZE, SIZE))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 1e9


if __name__ == '__main__':
    register()
    print('| model | parameters, M | with attention | GFLOPs | with attention |')
    print('|---|---|---|---|---|')
    for name, after in RECIPES.items():
        add_attention(f'{name}.yaml', f'{name}-bra.yaml', after)
        for scale in 'nsmlx':
            (params, flops), (more_params, more_flops) = (
                cost(f'{name}{scale}{end}.yaml') for end in ('', '-bra')
            )
            print(f'| {name}{scale} | {params:.2f} | {more_params:.2f} ', end='')
            print(f'| {flops:.1f} | {more_flops:.1f} |')
