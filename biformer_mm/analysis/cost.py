"""Parameters, multiply-adds and activations of a config's whole model."""

from contextlib import nullcontext
from functools import wraps
from typing import Callable, ContextManager, Dict, List, NamedTuple, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from biformer_mm.apis.model import build_network

from .parts import OTHER, find_parts

BOXES, MASKS = 1000, 100


class Cost(NamedTuple):
    """What a model or a part of it has and does for one image.

    Attributes:
        parameters: Their number.
        multiply_adds: Of convolutions and matrix products; a multiplication
            and the addition that follows are one.
        activations: Numbers that these put out. Fused attention puts out its
            result alone, no scores.
    """

    parameters: int
    multiply_adds: int
    activations: int


def model_cost(cfg: Config, size: Tuple[int, int]) -> Tuple[int, int]:
    """Count what a config's model has and what inference on an image takes.

    Args:
        cfg, size: See :func:`cost_by_part`.

    Returns:
        Parameters and multiply-adds.
    """
    columns = zip(*cost_by_part(cfg, size).values())
    parameters, multiply_adds, _ = map(sum, columns)
    return parameters, multiply_adds


def cost_by_part(cfg: Config, size: Tuple[int, int]) -> Dict[str, Cost]:
    """Count part by part what a config's model has and does for an image.

    Where the model allows it nothing is computed: tensors with a shape alone
    pass through it.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        size: Height and width of the image, in pixels.

    Returns:
        Cost of each part of :func:`biformer_mm.analysis.parts.find_parts`, and
        of what belongs to none. The heads of two-stage detectors are taken to
        see 1000 boxes and 100 masks, as how many there are depends on the
        image.
    """
    model = build_network(cfg).eval()
    parts = find_parts(model)
    count = _Count([*parts, OTHER])
    for name, modules in parts.items():
        # Those inside too: blocks of a stage are called one by one, and
        # branches of a head by a decoder.
        for module in nn.ModuleList(modules).modules():
            for method in ('forward', 'predict'):
                # What is in two parts is the first one's.
                if hasattr(module, method) and method not in vars(module):
                    setattr(module, method, count.as_part(name, getattr(module, method)))
    try:
        count.run(model, size, FakeTensorMode(allow_non_fake_inputs=True))
    except RuntimeError:  # the way through some heads depends on values
        count.run(model, size, nullcontext())

    counted = set()
    costs = {}
    for name, modules in {**parts, OTHER: [model]}.items():
        own = {
            param: param.numel()
            for module in modules
            for param in module.parameters()
            if param not in counted
        }
        counted.update(own)
        costs[name] = Cost(sum(own.values()), count.flops[name] // 2, count.activations[name])
    return costs


class _Count(TorchDispatchMode):
    """Attributes what PyTorch's counter counts to the part that is running.

    Attributes:
        flops: Of each part; a multiplication and an addition are two.
        activations: Of each part.
    """

    def __init__(self, names: List[str]) -> None:
        super().__init__()
        self.names = names
        self.part = OTHER

    @torch.no_grad()
    def run(self, model: nn.Module, size: Tuple[int, int], mode: ContextManager) -> None:
        """Count from zero, under a mode such as fake tensors'."""
        self.flops = dict.fromkeys(self.names, 0)
        self.activations = dict.fromkeys(self.names, 0)
        self.counter = make_counter()
        with mode, self.counter, self:  # the last comes first to each op
            _infer(model, torch.zeros(1, 3, *size))

    def as_part(self, name: str, method: Callable) -> Callable:
        """A part's method, whose ops are the part's. It has to be replaced:
        heads' methods are called directly, so that no hook of a module sees
        it.
        """

        @wraps(method)
        def counted(*args, **kwargs):
            outer, self.part = self.part, name
            try:
                return method(*args, **kwargs)
            finally:
                self.part = outer

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        flops = self.counter.get_total_flops() - before
        if flops:
            self.flops[self.part] += flops
            first = out[0] if isinstance(out, (tuple, list)) else out
            self.activations[self.part] += first.numel()
        return out


def make_counter() -> FlopCounterMode:
    """PyTorch's counter, which does not know the CPU's fused attention."""
    attention = getattr(torch.ops.aten, '_scaled_dot_product_flash_attention_for_cpu', None)
    return FlopCounterMode(display=False, custom_mapping={attention: _attention_flops})


def _attention_flops(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _infer(model: nn.Module, image: Tensor) -> None:
    """Run the part of inference that has weights."""
    size = tuple(image.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, batch_input_shape=size)
    if hasattr(model, 'roi_head'):
        model.rpn_head(model.extract_feat(image))
        for heads, count in (
            (model.roi_head.bbox_head, BOXES),
            (getattr(model.roi_head, 'mask_head', []), MASKS),
        ):
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
