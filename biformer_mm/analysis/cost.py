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
    """The cost of a model, or of a part of it, for one image.

    Attributes:
        parameters: Number of parameters.
        multiply_adds: Of convolutions and matrix products; a multiplication
            and the following addition count as one.
        activations: Number of output elements of these operations. Fused
            attention has no scores among its outputs.
    """

    parameters: int
    multiply_adds: int
    activations: int


def model_cost(cfg: Config, size: Tuple[int, int]) -> Tuple[int, int]:
    """Count the parameters of a config's model, and its multiply-adds for an image.

    Args:
        cfg: See :func:`cost_by_part`.
        size: See :func:`cost_by_part`.

    Returns:
        Parameters and multiply-adds.
    """
    columns = zip(*cost_by_part(cfg, size).values())
    parameters, multiply_adds, _ = map(sum, columns)
    return parameters, multiply_adds


def cost_by_part(cfg: Config, size: Tuple[int, int]) -> Dict[str, Cost]:
    """Count the cost of each part of a config's model for an image.

    Where the model allows it, nothing is computed: fake tensors, which have
    shapes but no values, pass through it.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        size: Height and width of the image, in pixels.

    Returns:
        Cost of each part of :func:`biformer_mm.analysis.parts.find_parts`, and
        of the rest. The heads of two-stage detectors are counted for 1000 boxes
        and 100 masks, as the real number depends on the image.
    """
    model = build_network(cfg).eval()
    parts = find_parts(model)
    count = _Count([*parts, OTHER])
    for name, modules in parts.items():
        # Submodules too: a stage's blocks are called one by one, and the
        # branches of a head by a decoder.
        for module in nn.ModuleList(modules).modules():
            for method in ('forward', 'predict'):
                # A module of two parts counts for the first.
                if hasattr(module, method) and method not in vars(module):
                    setattr(module, method, count.as_part(name, getattr(module, method)))
    try:
        count.run(model, size, FakeTensorMode(allow_non_fake_inputs=True))
    except RuntimeError:  # some heads depend on values
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
    """Add the counts of PyTorch's counter to the part that is running.

    Attributes:
        flops: By part; a multiplication and an addition count as two.
        activations: By part.
    """

    def __init__(self, names: List[str]) -> None:
        super().__init__()
        self.names = names
        self.part = OTHER

    @torch.no_grad()
    def run(self, model: nn.Module, size: Tuple[int, int], mode: ContextManager) -> None:
        """Count from zero, within ``mode``, such as FakeTensorMode."""
        self.flops = dict.fromkeys(self.names, 0)
        self.activations = dict.fromkeys(self.names, 0)
        self.counter = make_counter()
        with mode, self.counter, self:  # the last one sees each op first
            _infer(model, torch.zeros(1, 3, *size))

    def as_part(self, name: str, method: Callable) -> Callable:
        """Wrap a method so that its ops count for a part.

        Module hooks do not suffice: methods of heads are called directly.
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
    """Return PyTorch's counter, extended by the CPU's fused attention."""
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
