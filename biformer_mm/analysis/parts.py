"""Split a model into the parts whose cost is reported."""

from typing import Dict, List

from torch import nn

from biformer_mm.models import BiFormer

OTHER = 'other'  # the rest


def find_parts(model: nn.Module) -> Dict[str, List[nn.Module]]:
    """Divide a model of mmdet, mmseg or mmpretrain.

    Args:
        model: Whole model, or a backbone.

    Returns:
        Modules of each part: BiFormer's stem and stages, each stage with the
        downsampling before it and the norm of its output; the other children of
        the model by name; for an RoI head, its children.
    """
    if isinstance(model, BiFormer):
        return _stages(model)
    parts: Dict[str, List[nn.Module]] = {}
    for name, child in model.named_children():
        if isinstance(child, BiFormer):
            parts.update(_stages(child))
        elif name == 'roi_head':
            for inner, head in child.named_children():
                parts[f'{name}.{inner}'] = [head]
        else:
            parts[name] = [child]
    return parts


def _stages(backbone: BiFormer) -> Dict[str, List[nn.Module]]:
    parts: Dict[str, List[nn.Module]] = {'stem': [backbone.stem]}
    for i, stage in enumerate(backbone.stages):
        parts[f'stage {i + 1}'] = [
            *backbone.downsamples[max(i - 1, 0) : i],
            stage,
            *([backbone.out_norms[str(i)]] if str(i) in backbone.out_norms else []),
        ]
    return parts
