"""Times of what surrounds the attention, each beside a copy of its bytes."""

import os
import tempfile
import time
from typing import Callable, Dict, List, NamedTuple, Tuple

import torch
import torch.nn.functional as F
from measure import DTYPES, RotatingTimer, spread
from problems import Problem, outputs
from problems import make_inputs as problem_inputs
from report import table
from torch import Tensor

from biformer_mm.ops import fused, partition, routing_index
from gpu.step import Step

INPUTS = 3
LCE_SIZE = 5
PADDING = LCE_SIZE // 2


class Inputs(NamedTuple):
    """A map and what is computed of it."""

    x: Tensor  # (N, C, H, W), channels last
    gradient: Tensor  # of x
    filters: Tensor  # (C, 1, 5, 5)
    scale: Tensor  # (C), fp32
    regions: Tensor  # x, (N, S, S, h, w, C)
    topk: int

    @property
    def rows(self) -> Tensor:
        """(N, H, W, C)."""
        return self.x.permute(0, 2, 3, 1)


def run(step: Step) -> None:
    sizes = step.sizes
    rates = {row['name']: row for row in step.results.rows('ceilings')}
    bandwidth = rates.get('copy', {}).get('value')
    for shape in sizes.maps:
        for name, probe in PROBES.items():
            with step.case(name=name, shape=shape) as row:
                made = [probe(make_inputs(shape, sizes)) for _ in range(INPUTS)]
                timer = RotatingTimer([work for work, _ in made], sizes.device, True, sizes.seconds)
                row['seconds'] = spread([timer.read() for _ in range(sizes.repeats)])
                row['bytes'] = made[0][1]
                if bandwidth:
                    row['time_over_copy'] = row['seconds']['median'] * bandwidth / row['bytes']
    check_itself(step)


def check_itself(step: Step) -> None:
    """Time the first call, in which the op checks its kernels.

    They are compiled if no call before has needed them.
    """
    problem = Problem(1, 8, 8, 32, 2, 2)
    with step.case(name="the op's self-check", shape=()) as row:
        inputs = problem_inputs(problem, step.sizes.device, step.sizes.dtype)
        with tempfile.TemporaryDirectory() as nothing_remembered:
            os.environ.update(XDG_CACHE_HOME=nothing_remembered, BIFORMER_MM_SELF_CHECK='1')
            start = time.perf_counter()
            outputs(problem, inputs, 'triton')
            row['seconds'] = spread([time.perf_counter() - start])


def make_inputs(shape: Tuple[int, ...], sizes) -> Inputs:
    n, height, width, channels, num_regions, topk = shape
    like = dict(device=sizes.device, dtype=DTYPES[sizes.dtype])
    rows, gradient = (torch.randn(n, height, width, channels, **like) for _ in range(2))
    return Inputs(
        rows.permute(0, 3, 1, 2),
        gradient.permute(0, 3, 1, 2),
        torch.randn(channels, 1, LCE_SIZE, LCE_SIZE, **like),
        torch.randn(channels, device=sizes.device),
        partition(rows, num_regions),
        topk,
    )


# A probe makes (the function to be timed, bytes that it must move).
Probe = Callable[[Inputs], Tuple[Callable[[], object], int]]


def conv_forward(inputs: Inputs) -> Tuple:
    x, filters = inputs.x, inputs.filters
    return lambda: F.conv2d(x, filters, padding=PADDING, groups=len(filters)), 2 * x.nbytes


def conv_backward(*wanted: bool) -> Probe:
    """Gradient of the input, or of the filters."""

    def probe(inputs: Inputs) -> Tuple:
        x, gradient, filters = inputs[:3]
        return lambda: torch.ops.aten.convolution_backward(
            gradient,
            x,
            filters,
            None,
            [1, 1],
            [PADDING, PADDING],
            [1, 1],
            False,
            [0, 0],
            len(filters),
            [*wanted, False],
        ), 2 * x.nbytes

    return probe


def norm_autocast(inputs: Inputs) -> Tuple:
    """As autocast has it on a GPU: a cast, and an output in fp32."""
    x, scale = inputs.rows, inputs.scale
    return (lambda: F.layer_norm(x.float(), scale.shape, scale, scale), x.nbytes + 4 * x.numel())


def norm(inputs: Inputs) -> Tuple:
    x, scale = inputs.rows, inputs.scale.to(inputs.x.dtype)
    return lambda: F.layer_norm(x, scale.shape, scale, scale), 2 * x.nbytes


def our_norm(inputs: Inputs) -> Tuple:
    x, scale = inputs.rows, inputs.scale
    return lambda: fused.layer_norm(x, scale, scale, 1e-6), 2 * x.nbytes


def our_conv(inputs: Inputs) -> Tuple:
    """With bias and a second map."""
    x, filters, scale = inputs.rows, inputs.filters, inputs.scale
    return lambda: fused.add_depthwise(x, filters, scale, x), 3 * x.nbytes


def our_conv_backward(inputs: Inputs) -> Tuple:
    from biformer_mm.ops.backends.triton_depthwise import run

    gradient, filters = inputs.gradient.permute(0, 2, 3, 1), inputs.filters
    out = torch.empty_like(gradient)
    return lambda: run(gradient, filters, out, flip=True), 2 * out.nbytes


def our_conv_weight(inputs: Inputs) -> Tuple:
    from biformer_mm.ops.backends.triton_depthwise import weight_gradients

    x, filters = inputs.rows, inputs.filters
    gradient = inputs.gradient.permute(0, 2, 3, 1)
    return lambda: weight_gradients(gradient, x, filters), 2 * x.nbytes


def routing(inputs: Inputs) -> Tuple:
    x, topk = inputs.regions, inputs.topk
    return lambda: routing_index(x, x, topk), 2 * x.nbytes


def readers(inputs: Inputs) -> Tuple:
    from biformer_mm.ops.backends.triton_routing import inverse  # with Triton only

    index = routing_index(inputs.regions, inputs.regions, inputs.topk)
    return lambda: inverse(index), index.nbytes * 3 // 2


PROBES: Dict[str, Probe] = {
    'depth-wise 5x5': conv_forward,
    'its input gradient': conv_backward(True, False),
    'its weight gradient': conv_backward(False, True),
    'LayerNorm, autocast': norm_autocast,
    'LayerNorm, half': norm,
    'ours: depth-wise 5x5, bias and sum': our_conv,
    'ours: its input gradient': our_conv_backward,
    'ours: its gradients of weight and bias': our_conv_weight,
    'ours: LayerNorm': our_norm,
    'routing_index': routing,
    "readers' index": readers,
}


def lines(rows: List[Dict]) -> List[str]:
    """Microseconds, and over a copy of as many bytes."""
    found = [
        [
            f'{row["name"]}, {"x".join(map(str, row["shape"][:4]))}',
            f'{row["seconds"]["median"] * 1e6:.1f}',
            f'{row["time_over_copy"]:.2f}' if 'time_over_copy' in row else '-',
        ]
        for row in rows
        if not row['error']
    ]
    return [table(['probe', 'us', '/ copy'], found)] if found else []
