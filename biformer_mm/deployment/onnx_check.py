"""Check that an ONNX file computes what PyTorch computes.

Top-k routing is discrete. Where two regions match a query region equally well,
up to rounding, two runtimes may choose differently, both correctly, and all
later values differ. So routing is checked separately: PyTorch uses the file's
choices, each of which must be a valid choice up to rounding, and then all
outputs must agree.

Shapes: N batch, R = S*S regions, k routed regions, C channels.
"""

import os
import tempfile
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from biformer_mm.models import BiLevelRoutingAttention
from biformer_mm.ops.routing import region_mean
from biformer_mm.utils.errors import UsageError

from .runtimes import RUNTIMES, load, version


class Tolerance(NamedTuple):
    """Differences that pass as rounding.

    Attributes:
        output: Largest difference of an output, relative to its largest value.
        routing: Largest amount by which the affinity of a chosen region may be
            below that of a region not chosen, relative to the largest sum of
            absolute products among the query region's affinities.
    """

    output: float
    routing: float


FP32 = Tolerance(output=1e-4, routing=1e-5)
FP16 = Tolerance(output=1e-2, routing=1e-3)
_CURE = (
    'nothing is written; export without Dynamic(size=True) and half=True, '
    'or report it with the config'
)


class OutputDifference(NamedTuple):
    """Largest absolute difference, and value, of an output."""

    absolute: float = 0.0
    scale: float = 0.0

    @property
    def relative(self) -> float:
        """The difference relative to the value; infinite for nan."""
        ratio = self.absolute / (self.scale or 1.0)
        return ratio if ratio == ratio else float('inf')


class RoutingDifference(NamedTuple):
    """Comparison of routing indices.

    Attributes:
        rows: Number of rows compared.
        other: Number of rows with another set of regions.
        shortfall: The smallest :attr:`Tolerance.routing` that they pass.
    """

    rows: int = 0
    other: int = 0
    shortfall: float = 0.0


class Agreement(NamedTuple):
    """How far a file agrees with PyTorch: by output, and in routing."""

    outputs: Dict[str, OutputDifference]
    routing: RoutingDifference
    shapes: List[Tuple[int, ...]]


def compare(
    network: nn.Module,
    path: str,
    batches: Iterable[Tensor],
    tolerance: Tolerance,
    runtime: str = RUNTIMES[0],
) -> Agreement:
    """Run a file and compare it with the network it came from.

    Args:
        network: The network in fp32: a batch in, a tuple of tensors out.
        path: The file, with the same outputs in the same order.
        batches: Inputs, (N, 3, H, W) each.
        tolerance: Differences that pass as rounding.
        runtime: What runs the file, one of :data:`.runtimes.RUNTIMES`.

    Raises:
        UsageError: The runtime cannot run the file, or an output or a choice
            of regions differs by more than the tolerance.
    """
    import onnx

    names = [out.name for out in onnx.load(path).graph.output]
    outputs = dict.fromkeys(names, OutputDifference())
    total, shapes = RoutingDifference(), []
    for batch in batches:
        shapes.append(tuple(batch.shape))
        try:
            found, choices = _run(path, batch, runtime)
        except Exception as error:  # of many kinds, none public
            reason = ' '.join(str(error).split())[:300]
            raise UsageError(
                f'{runtime} must run the file; version '
                f'{version(runtime)} does not, on {tuple(batch.shape)} '
                f'({reason}); {_CURE}'
            ) from error
        with torch.no_grad(), _given(network, choices) as differences:
            expected = network(batch)
        for difference in differences:
            total = RoutingDifference(
                total.rows + difference.rows,
                total.other + difference.other,
                max(total.shortfall, difference.shortfall),
            )
        for name, value, truth in zip(names, found, expected):
            outputs[name] = max(outputs[name], _difference(value, truth), key=lambda d: d.relative)
    _require(outputs, total, tolerance)
    return Agreement(outputs, total, shapes)


def _require(
    outputs: Dict[str, OutputDifference], routing: RoutingDifference, tolerance: Tolerance
) -> None:
    if routing.shortfall > tolerance.routing:
        raise UsageError(
            'the file must choose the regions that PyTorch chooses, up to '
            f'{tolerance.routing:.0e} in affinity; it falls short by '
            f'{routing.shortfall:.1e}; {_CURE}'
        )
    for name, difference in outputs.items():
        if difference.relative > tolerance.output:
            raise UsageError(
                "each output must equal PyTorch's up to "
                f'{tolerance.output:.0e} of its largest value; {name} differs '
                f'by {difference.relative:.1e}; {_CURE}'
            )


def _run(path: str, batch: Tensor, runtime: str) -> Tuple[List[Tensor], List[Tensor]]:
    """Return a file's outputs and choices of regions."""
    # Take the outputs from the file itself, not from the probe.
    outputs = load(path, runtime)(batch.numpy())
    with tempfile.TemporaryDirectory() as folder:
        probe = os.path.join(folder, 'probe.onnx')
        _write_probe(path, probe)
        chosen = load(probe, runtime)(batch.numpy())[len(outputs) :]
    # Quadtree attention's choices, of tokens for each query, have an axis more. They are only
    # seen in the outputs.
    routed = [torch.from_numpy(x) for x in chosen if x.ndim == 3]
    return [torch.from_numpy(x) for x in outputs], routed


def _write_probe(path: str, probe: str) -> None:
    """Write a copy of a file with its choices of regions as further outputs."""
    import onnx

    model = onnx.load(path)
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(node.output[1], onnx.TensorProto.INT64, None)
        for node in model.graph.node
        if node.op_type == 'TopK'
    )
    onnx.save(model, probe)


@contextmanager
def _given(network: nn.Module, choices: List[Tensor]) -> Iterator[List[RoutingDifference]]:
    """Let the network's layers attend to given regions.

    Args:
        network: The network.
        choices: Region index of each routed layer in the order of calls,
            (N, R, k).

    Yields:
        How these differ from the layers' own choices; complete after a forward.
    """
    differences: List[RoutingDifference] = []
    layers = [  # with one region there is no choice, and no TopK in the file
        m
        for m in network.modules()
        if isinstance(m, BiLevelRoutingAttention) and m.num_regions != 1
    ]
    if len(layers) != len(choices):
        raise UsageError(
            'a file must route as often as the network; got '
            f'{len(choices)} choices of {len(layers)} layers; {_CURE}'
        )
    remaining = iter(choices)

    def replace(own):

        def attention_inputs(qkv: Tensor, size: Tuple) -> Dict[str, Any]:
            inputs, given = own(qkv, size), next(remaining)
            differences.append(_routing_difference(inputs, given))
            return {**inputs, 'region_index': given}

        return attention_inputs

    for layer in layers:
        layer.attention_inputs = replace(layer.attention_inputs)
    try:
        yield differences
    finally:
        for layer in layers:
            del layer.attention_inputs  # back to the class's method


def _routing_difference(inputs: Dict[str, Any], given: Tensor) -> RoutingDifference:
    """Compare given choices with those of a layer's inputs."""
    own = inputs['region_index']
    size = None if inputs['attend_padding'] else inputs['valid_size']
    query, _ = region_mean(inputs['query'], size)
    key, occupied = region_mean(inputs['key'], size)
    affinity = query @ key.transpose(1, 2)  # (N, R, R)
    if occupied is not None:
        affinity = affinity.masked_fill(~occupied, -torch.inf)
    scale = (query.abs() @ key.abs().transpose(1, 2)).amax(-1)

    # If a region is given twice, fewer than k are chosen.
    chosen = torch.zeros_like(affinity, dtype=torch.bool).scatter_(-1, given, True)
    if not (chosen.sum(-1) == given.shape[-1]).all():
        return RoutingDifference(given.shape[0] * given.shape[1], 0, torch.inf)
    best_left = affinity.masked_fill(chosen, -torch.inf).amax(-1)
    worst_taken = affinity.masked_fill(~chosen, torch.inf).amin(-1)
    shortfall = ((best_left - worst_taken) / scale).nan_to_num(0).clamp(min=0)
    other = (given.sort(-1).values != own.sort(-1).values).any(-1)
    return RoutingDifference(other.numel(), int(other.sum()), shortfall.max().item())


def _difference(value: Tensor, truth: Tensor) -> OutputDifference:
    if value.shape != truth.shape:
        raise UsageError(
            "a file's outputs must be shaped as PyTorch's; got "
            f'{tuple(value.shape)} for {tuple(truth.shape)}; {_CURE}'
        )
    return OutputDifference((value - truth).abs().max().item(), truth.abs().max().item())
