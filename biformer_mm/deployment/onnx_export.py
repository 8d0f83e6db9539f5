"""Export a model to an ONNX file and check that it computes the same.

Shapes: N batch, H x W image, S regions per side.
"""

import math
import os.path as osp
import re
import warnings
from copy import deepcopy
from typing import TYPE_CHECKING, Iterator, NamedTuple, Sequence, Tuple

import torch
from mmengine.utils import digit_version
from torch import Tensor, nn

from biformer_mm.models import BiFormer
from biformer_mm.models.backbones.biformer import MIN_SIDE
from biformer_mm.models.layers.base_attention import BaseAttention
from biformer_mm.ops.dispatch import PORTABLE
from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.errors import UsageError

from . import runtimes
from .onnx_check import FP16, FP32, Agreement, compare
from .runtimes import RUNTIMES

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
BACKEND = 'portable'  # in place of 'auto'
INPUT = 'image'
_TORCH = '2.6'  # the first with an ONNX exporter based on torch.export
_MAX_SIDE = 2**15  # of images, in pixels
_BATCH = 2  # for tracing: torch.export takes 1 as a constant


class Dynamic(NamedTuple):
    """The dynamic axes of the image.

    Attributes:
        batch: N may be any number; otherwise it is 1.
        size: H and W may be any multiples of :func:`size_step`.
    """

    batch: bool = False
    size: bool = False


_STATIC = Dynamic()


class FeaturePath(nn.Module):
    """A network without post-processing, as a function of one tensor.

    Args:
        model: A backbone, or a whole model of OpenMMLab: RetinaNet, a
            segmentor whose decode head returns one map, or a classifier. It is
            set to evaluation mode.
        backbone: Use only the backbone of a whole model.

    Attributes:
        names: Names of the outputs. For a backbone, 'c2' to 'c5', the maps of
            strides 4 to 32; for RetinaNet, 'cls_score_<stride>' and
            'bbox_pred_<stride>'; for a segmentor or classifier, 'logits'.

    Raises:
        UsageError: The model is of another kind.
    """

    def __init__(self, model: nn.Module, backbone: bool = False) -> None:
        super().__init__()
        self.network = _backbone(model) if backbone else model
        self.names = _output_names(self.network)
        self.eval()

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Map normalised images, (N, 3, H, W), to one tensor per name."""
        if isinstance(self.network, BiFormer):
            return self.network(image)
        out = self.network(image, mode='tensor')
        if isinstance(out, Tensor):
            return (out,)
        return tuple(x for levels in out for x in levels)


class HalfPath(nn.Module):
    """A feature path in half precision, with inputs and outputs in float32."""

    def __init__(self, path: FeaturePath) -> None:
        super().__init__()
        self.path = deepcopy(path).half()

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Map normalised images, (N, 3, H, W), to one tensor per name."""
        return tuple(out.float() for out in self.path(image.half()))


def _backbone(model: nn.Module) -> BiFormer:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, BiFormer):
        kind = 'none' if backbone is None else type(backbone).__name__
        raise UsageError(
            "backbone=True exports a BiFormer's maps; the backbone "
            f'of {type(model).__name__} is {kind}: leave it out'
        )
    return backbone


def _output_names(network: nn.Module) -> Tuple[str, ...]:
    if isinstance(network, BiFormer):
        return tuple(f'c{i + 2}' for i in network.out_indices)
    if _is(network, 'SingleStageDetector') and _is(network.bbox_head, 'RetinaHead'):
        strides = [s[0] for s in network.bbox_head.prior_generator.strides]
        return tuple(
            f'{kind}_{stride}' for kind in ('cls_score', 'bbox_pred') for stride in strides
        )
    if (
        _is(network, 'EncoderDecoder')
        and _is(network.decode_head, 'BaseDecodeHead')
        or _is(network, 'ImageClassifier')
    ):
        return ('logits',)
    raise UsageError(
        'what is exported whole is RetinaNet, a segmentor with one decode '
        'head that gives one map, or a classifier, as others have no one '
        f'result before post-processing; got {type(network).__name__}; add '
        'backbone=True to export only a BiFormer backbone'
    )


def _is(module: nn.Module, name: str) -> bool:
    """Return whether a module is of a class, without importing its framework."""
    return any(c.__name__ == name for c in type(module).__mro__)


def pin_backend(model: nn.Module) -> Tuple[str, ...]:
    """Set every attention layer to a backend that other runtimes can read.

    Layers with backend 'auto' get :data:`BACKEND`.

    Returns:
        The backends of the layers, each once.

    Raises:
        UsageError: A layer requires another backend.
    """
    found = set()
    for name, layer in model.named_modules():
        backend = getattr(layer, 'attn_backend', None)
        if backend == 'auto':
            backend = layer.attn_backend = BACKEND
        if backend not in (None, *PORTABLE):
            raise UsageError(
                "an exported graph has only PyTorch's own ops, so its "
                f'attention is {" or ".join(PORTABLE)}; {name} asks for '
                f"{backend!r}; set attn_backend='auto'"
            )
        found.add(backend)
    return tuple(sorted(found - {None}))


def size_step(backbone: nn.Module) -> int:
    """Return the step, in pixels, between sizes that need no padding in any stage.

    Only at these sizes H and W can be dynamic: where S does not divide a map,
    the graph depends on the remainder.

    Raises:
        UsageError: There is no such step.
    """
    step = 32
    if not isinstance(backbone, BiFormer):
        raise UsageError(
            'Dynamic(size=True) is for BiFormer backbones; got '
            f'{type(backbone).__name__}; leave it out'
        )
    for stage, blocks in enumerate(backbone.stages):
        attn = blocks[0].attn
        if isinstance(attn, BaseAttention):
            raise UsageError(
                'Dynamic(size=True) is for bi-level routing attention, as others pad each size in '
                f'another way; stage {stage + 1} has {type(attn).__name__}; leave it out'
            )
        num_regions = getattr(attn, 'num_regions', 1)
        if num_regions == 'auto':
            raise UsageError(
                'Dynamic(size=True) needs one number of regions for all sizes; '
                "got num_regions='auto'; leave it out"
            )
        side = (4 << stage) * num_regions
        step = step * side // math.gcd(step, side)
    return step


def export_onnx(
    path: FeaturePath,
    out: str,
    images: Tensor,
    dynamic: Dynamic = _STATIC,
    half: bool = False,
    force: bool = False,
    runtime: str = RUNTIMES[0],
) -> Tuple['ModelProto', Agreement]:
    """Export to an ONNX file and compare a runtime's outputs with PyTorch's.

    The file is only written if they agree.

    Args:
        path: The network; its backends are set to portable ones.
        out: File to write.
        images: Normalised images to check with, (n, 3, H, W), of the size to
            export for.
        dynamic: The dynamic axes.
        half: Use float16 for weights and arithmetic. Input and outputs stay in
            float32.
        force: Overwrite an existing file.
        runtime: What runs the file, one of :data:`.runtimes.RUNTIMES`.

    Returns:
        The exported model, and how far it agrees with PyTorch.

    Raises:
        UsageError: The network cannot be exported, or the outputs differ.
    """
    require_packages(runtime)
    import onnx

    check_target(out, images.shape[2:], force)
    pin_backend(path)
    step = 1
    if dynamic.size:
        step = size_step(getattr(path.network, 'backbone', path.network))
        _check_multiple(images, step)
    model = to_onnx(HalfPath(path) if half else path, path.names, images, dynamic, step)

    try:
        with whole_file(out) as temporary:
            onnx.save(model, temporary)
            onnx.checker.check_model(temporary, full_check=True)
            batches = _batches(images, dynamic, step)
            agreement = compare(path, temporary, batches, FP16 if half else FP32, runtime)
    except OSError as error:
        raise UsageError(
            f'{out} cannot be written: {error}; free its disk or give another path'
        ) from error
    return model, agreement


def check_target(out: str, shape: Sequence[int], force: bool) -> None:
    """Raise UsageError unless images have a valid size, and ``out`` is new or ``force`` set."""
    if not all(MIN_SIDE <= side <= _MAX_SIDE for side in shape):
        raise UsageError(
            f'images must be at least {MIN_SIDE} x {MIN_SIDE} '
            f'and at most {_MAX_SIDE} x {_MAX_SIDE}; got '
            f'{tuple(shape)}'
        )
    if osp.exists(out) and not osp.isdir(out) and not force:
        raise UsageError(f'{out} exists; add force=True to overwrite it')


def require_packages(runtime: str = RUNTIMES[0]) -> None:
    """Raise UsageError unless the packages for export and check are installed."""
    if digit_version(torch.__version__) < digit_version(_TORCH):
        raise UsageError(
            f'export to ONNX needs PyTorch {_TORCH} or later; '
            f'got {torch.__version__}; export with a newer one'
        )
    runtimes.require_packages('onnx', 'onnxscript', runtime)


def to_onnx(
    path: nn.Module, names: Sequence[str], images: Tensor, dynamic: Dynamic = _STATIC, step: int = 1
) -> 'ModelProto':
    """Export without a check.

    Args:
        path: A function of one tensor named ``image``.
        names: Names of the outputs.
        images: (n, C, H, W) of the size to export for; the values do not matter.
        dynamic: The dynamic axes.
        step: Step between dynamic sizes, from :func:`size_step`.

    Raises:
        UsageError: The network cannot be exported.
    """
    from torch.export import Dim

    axes = {}
    if dynamic.batch:
        axes[0] = Dim('batch', min=1)
    if dynamic.size:
        axes[2], axes[3] = step * Dim('h', min=2), step * Dim('w', min=2)
    shape = (_BATCH if dynamic.batch else 1, *images.shape[1:])
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about the exporter's own code
            program = torch.export.export(
                path, (torch.zeros(shape),), dynamic_shapes={INPUT: axes} if axes else None
            )
            model = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(names),
            ).model_proto
    except Exception as error:  # of many kinds, none documented
        raise UsageError(
            f'PyTorch {torch.__version__} cannot export this model '
            f'({_first_cause(error)}); export without '
            'Dynamic(size=True), or with backbone=True'
        ) from error
    foreign = {node.domain for node in model.graph.node} - {''}
    if foreign or model.functions:
        raise UsageError(
            "an exported file has only ONNX's own operators; "
            f'got operators of {sorted(foreign)}; report '
            'it with the config'
        )
    _clean(model)
    return model


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    line = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {line[:200]}'


def _clean(model: 'ModelProto') -> None:
    """Name the dynamic axes, and drop the exporter's notes, which have local paths."""
    graph = model.graph
    symbols = {}
    for axis, name in ((0, 'batch'), (2, 'h'), (3, 'w')):
        size = graph.input[0].type.tensor_type.shape.dim[axis].dim_param
        symbols.update((s, name) for s in re.findall(r's\d+', size))
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r's\d+', lambda s: symbols.get(s[0], s[0]), dim.dim_param)
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField('doc_string')


def _check_multiple(images: Tensor, step: int) -> None:
    """Raise UsageError unless H and W are multiples of ``step``, and at least twice it."""
    size = tuple(images.shape[2:])
    good = tuple(step * max(2, round(x / step)) for x in size)
    if size != good:
        raise UsageError(
            f'Dynamic(size=True) needs images in multiples of {step}, where its '
            f'regions divide every map, and of at least {2 * step}; got '
            f'{size[0]} {size[1]}; take images of {good[0]} {good[1]}'
        )


def _batches(images: Tensor, dynamic: Dynamic, step: int) -> Iterator[Tensor]:
    """Yield inputs to check with, of batches and sizes that differ from tracing."""
    if not dynamic.batch:
        yield from images.split(1)
    else:
        yield images[:1]
        yield images[torch.arange(3) % len(images)]
    if dynamic.size:
        height, width = images.shape[2:]
        yield nn.functional.interpolate(images[:1], (height - step, width + step), mode='bilinear')
