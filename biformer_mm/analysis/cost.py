"""Parameters and multiply-adds of a config's whole model."""
from contextlib import nullcontext
from copy import deepcopy
from typing import ContextManager, Tuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

BOXES, MASKS = 1000, 100


def model_cost(cfg: Config, size: Tuple[int, int]) -> Tuple[int, int]:
    """Count what a config's model has and what inference on an image takes.

    Where the model allows it nothing is computed: tensors with a shape alone
    pass through it.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        size: Height and width of the image, in pixels.

    Returns:
        Parameters, and multiply-adds of convolutions and matrix products. The
        heads of two-stage detectors are taken to see 1000 boxes and 100 masks,
        as how many there are depends on the image.
    """
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(deepcopy(cfg.model))).eval()
    try:
        flops = _count(model, size, FakeTensorMode(allow_non_fake_inputs=True))
    except RuntimeError:  # the way through some heads depends on values
        flops = _count(model, size, nullcontext())
    return sum(p.numel() for p in model.parameters()), flops


@torch.no_grad()
def _count(model: nn.Module, size: Tuple[int, int],
           mode: ContextManager) -> int:
    # PyTorch's counter does not know the CPU's fused attention.
    attention = getattr(torch.ops.aten,
                        '_scaled_dot_product_flash_attention_for_cpu', None)
    counter = FlopCounterMode(
        display=False, custom_mapping={attention: _attention_flops})
    with mode, counter:
        _infer(model, torch.zeros(1, 3, *size))
    # PyTorch counts a multiplication and an addition as two.
    return counter.get_total_flops() // 2


def _attention_flops(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _infer(model: nn.Module, image: Tensor) -> None:
    """Run the part of inference that has weights."""
    size = tuple(image.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, batch_input_shape=size)
    if hasattr(model, 'roi_head'):
        model.rpn_head(model.extract_feat(image))
        for heads, count in ((model.roi_head.bbox_head, BOXES),
                             (getattr(model.roi_head, 'mask_head',
                                      []), MASKS)):
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                height, width = nn.modules.utils._pair(head.roi_feat_size)
                head(torch.zeros(count, head.in_channels, height, width))
    elif hasattr(model, 'bbox_head'):
        from mmdet.structures import DetDataSample
        model(image, [DetDataSample(metainfo=meta)])
    elif hasattr(model, 'decode_head'):
        model.encode_decode(image, [meta])
    else:
        model(image)
