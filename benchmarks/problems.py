"""Attention problems of BiFormer's stages, ready to be timed and checked.

Shapes: N batch, H x W map, C channels, S regions per side, h x w tokens per
region, k routed regions, m heads of d = C/m channels.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from measure import DTYPES
from torch import Tensor

from biformer_mm.ops import partition, region_attention, routing_index

CHANNELS = dict(small=(64, 128, 256, 512), stl=(96, 192, 384, 768))
TOPKS = (1, 4, 16, None)
MODES = ('forward', 'forward+backward')
# Not backends, but PyTorch's attention on inputs that need no gather.
DENSE, GATHERED = 'dense', 'gathered'
# Largest relative error that passes as rounding.
TOLERANCES = dict(fp64=1e-10, fp32=1e-4, fp16=5e-3, bf16=3e-2)


class Problem(NamedTuple):
    """One attention layer's input, as the layer hands it to the op.

    ``topk`` None is full attention, with ``num_regions`` 1. ``masked`` says
    whether padding is no key, ``repeated`` whether regions are routed twice.
    """

    batch: int
    height: int
    width: int
    channels: int
    num_regions: int
    topk: Optional[int]
    head_dim: int = 32
    masked: bool = False
    repeated: bool = False

    @property
    def num_heads(self) -> int:
        return 8 if self.topk is None else self.channels // self.head_dim

    @property
    def scale(self) -> float:
        if self.topk is None:
            return (self.channels // self.num_heads) ** -0.5
        return self.channels**-0.5

    @property
    def region(self) -> Tuple[int, int]:
        """(h, w), of the padded map's regions."""
        return (-(-self.height // self.num_regions), -(-self.width // self.num_regions))

    @property
    def valid_size(self) -> Optional[Tuple[int, int]]:
        h, w = self.region
        padded = h * self.num_regions, w * self.num_regions
        size = self.height, self.width
        return None if size == padded else size

    def describe(self) -> str:
        h, w = self.region
        regions = f'{self.num_regions}x{self.num_regions} regions of {h}x{w}'
        return f'{self.batch}x{self.height}x{self.width}x{self.channels}, ' + (
            'full' if self.topk is None else f'k={self.topk}, {regions}'
        )


class Inputs(NamedTuple):
    """q, k, v, and the output's gradient: (N, S, S, h, w, C)."""

    query: Tensor
    key: Tensor
    value: Tensor
    gradient: Tensor
    index: Tensor


def stage_problems(size: Tuple[int, int], num_regions: int, arch: str, batch: int) -> List[Problem]:
    """The four stages' layers for images of a size."""
    problems = []
    for stage, (channels, topk) in enumerate(zip(CHANNELS[arch], TOPKS)):
        height, width = (-(-side // (4 << stage)) for side in size)
        problems.append(Problem(batch, height, width, channels, num_regions if topk else 1, topk))
    return problems


def make_inputs(problem: Problem, device: str, dtype: str, seed: int = 0) -> Inputs:
    """Random slices of a fused projection of a map, and their routing."""
    torch.manual_seed(seed)
    s, (h, w), c = problem.num_regions, problem.region, problem.channels
    fused = torch.randn(problem.batch, s * h, s * w, 3 * c, device=device, dtype=DTYPES[dtype])
    query, key, value = (partition(x, s).requires_grad_() for x in fused.chunk(3, dim=-1))
    # As the layer crops, what reaches the padding is zero.
    gradient = torch.zeros(problem.batch, s * h, s * w, c, device=device, dtype=DTYPES[dtype])
    gradient[:, : problem.height, : problem.width].normal_()
    return Inputs(query, key, value, partition(gradient, s), route(problem, query, key))


def route(problem: Problem, query: Tensor, key: Tensor) -> Tensor:
    if problem.num_regions == 1:
        return query.new_zeros((problem.batch, 1, 1), dtype=torch.long)
    index = routing_index(query.detach(), key.detach(), problem.topk)
    if problem.repeated:
        index = index.repeat_interleave(2, dim=2)[:, :, : problem.topk]
    return index


def attention(problem: Problem, inputs: Inputs, backend: str, routed: bool) -> Callable[[], Tensor]:
    """The function that computes the output.

    Args:
        problem: The problem.
        inputs: Its inputs.
        backend: Of the op, or :data:`DENSE` or :data:`GATHERED`.
        routed: Whether it computes the routing index too.
    """
    query, key, value = inputs[:3]
    if backend in (DENSE, GATHERED):
        q, k, v = inputs[:3]
        return lambda: F.scaled_dot_product_attention(q, k, v, scale=problem.scale)
    return lambda: region_attention(
        query,
        key,
        value,
        route(problem, query, key) if routed else inputs.index,
        num_heads=problem.num_heads,
        scale=problem.scale,
        valid_size=problem.valid_size,
        attend_padding=not problem.masked,
        backend=backend,
    )


def make_yardstick(problem: Problem, kind: str, device: str, dtype: str, seed: int = 0) -> Inputs:
    """Inputs of plain attention with as many query-key pairs per head.

    :data:`DENSE` is one sequence per image, as long as its pairs allow;
    :data:`GATHERED` has the op's own shape, one sequence per region, with the
    routed regions' keys and values already lying together.
    """
    torch.manual_seed(seed)
    h, w = problem.region
    tokens, routed = h * w, problem.topk or 1
    head_dim = problem.channels // problem.num_heads
    sequences, queries, keys = problem.num_regions**2, tokens, routed * tokens
    if kind == DENSE:
        # Padding is no query.
        pairs = problem.height * problem.width * keys
        sequences, queries = 1, round(pairs**0.5)
        keys = queries
    shape = problem.batch * sequences, problem.num_heads
    query, key, value, gradient = (
        torch.randn(*shape, length, head_dim, device=device, dtype=DTYPES[dtype])
        for length in (queries, keys, keys, queries)
    )
    return Inputs(
        query.requires_grad_(), key.requires_grad_(), value.requires_grad_(), gradient, None
    )


def make_step(attend: Callable[[], Tensor], inputs: Inputs, mode: str) -> Callable[[], object]:
    """The function to be timed."""

    def forward() -> None:
        with torch.no_grad():
            attend()

    def both() -> None:
        torch.autograd.grad(attend(), inputs[:3], inputs.gradient)

    return forward if mode == 'forward' else both


def prepare(
    problem: Problem, backend: str, device: str, dtype: str, routed: bool, seed: int = 0
) -> Tuple[Callable[[], Tensor], Inputs]:
    """Make the inputs and the function."""
    if backend in (DENSE, GATHERED):
        inputs = make_yardstick(problem, backend, device, dtype, seed)
    else:
        inputs = make_inputs(problem, device, dtype, seed)
    return attention(problem, inputs, backend, routed), inputs


def outputs(problem: Problem, inputs: Inputs, backend: str) -> Dict[str, Tensor]:
    """o, dq, dk and dv."""
    out = attention(problem, inputs, backend, routed=False)()
    gradients = torch.autograd.grad(out, inputs[:3], inputs.gradient)
    return dict(zip(('o', 'dq', 'dk', 'dv'), (out.detach(), *gradients)))


def errors_of(found: Dict[str, Tensor], problem: Problem, inputs: Inputs) -> Dict[str, float]:
    """Relative errors, ``|x - reference| / |reference|``, of o, dq, dk, dv.

    The reference is in fp64, from the same inputs.
    """
    exact = outputs(
        problem,
        Inputs(
            *(x.detach().double().requires_grad_() for x in inputs[:3]),
            inputs.gradient.double(),
            inputs.index,
        ),
        'reference',
    )
    return {name: float((found[name].double() - x).norm() / x.norm()) for name, x in exact.items()}


def errors(problem: Problem, backend: str, device: str, dtype: str) -> Dict[str, float]:
    """:func:`errors_of` a backend."""
    inputs = make_inputs(problem, device, dtype)
    return errors_of(outputs(problem, inputs, backend), problem, inputs)


def wrong(found: Dict[str, float], dtype: str) -> Optional[str]:
    """Why the errors are not rounding; None where they are."""
    limit = TOLERANCES[dtype]
    bad = [f'{k} {v:.1e}' for k, v in found.items() if not v <= limit]
    return f'wrong beyond {limit:.0e}: {", ".join(bad)}' if bad else None


def unsupported_reason(backend: str, problem: Problem, device: str, dtype: str) -> Optional[str]:
    """Why the op refuses the backend; found out with one token."""
    token = torch.ones(1, 1, 1, 1, 1, problem.channels, device=device, dtype=DTYPES[dtype])
    try:
        region_attention(
            token,
            token,
            token,
            torch.zeros(1, 1, 1, dtype=torch.long, device=device),
            num_heads=problem.num_heads,
            scale=1.0,
            backend=backend,
        )
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def cost(problem: Problem, mode: str, dtype: str) -> List[Tuple[int, int]]:
    """Least (bytes moved, FLOPs) of each pass that a mode has.

    Forward: q, k, v and index are read, o and the log-sum-exp written, and a
    query-key pair of a head costs 4 * d FLOPs. Backward: q, k, v, o, do,
    log-sum-exp and index are read, dq, dk, dv written, 10 * d FLOPs a pair.
    Tokens of the padding are moved like others but are no queries.
    """
    (h, w), regions = problem.region, problem.num_regions**2
    topk = problem.topk or 1
    tokens = problem.batch * regions * h * w
    a_map = tokens * problem.channels * DTYPES[dtype].itemsize
    small = 4 * tokens * problem.num_heads + 8 * problem.batch * regions * topk
    pairs = problem.batch * problem.height * problem.width * topk * h * w
    forward = 4 * a_map + small, 4 * pairs * problem.channels
    backward = 8 * a_map + small, 10 * pairs * problem.channels
    return [forward] if mode == MODES[0] else [forward, backward]
