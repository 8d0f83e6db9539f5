"""Attention problems of BiFormer's stages, ready to be timed and checked.

Shapes: N batch, H x W map, C channels, S regions per side, h x w tokens per
region, k routed regions, m heads of d = C/m channels.
"""
import multiprocessing
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from biformer_mm.ops import partition, region_attention, routing_index
from measure import (DTYPES, Timer, memory_in_use, peak_memory,
                     reset_peak_memory, spread)

CHANNELS = dict(small=(64, 128, 256, 512), stl=(96, 192, 384, 768))
TOPKS = (1, 4, 16, None)
MODES = ('forward', 'forward+backward')
# Not backends, but PyTorch's attention on inputs that need no gather.
DENSE, GATHERED = 'dense', 'gathered'
# Largest relative error that passes as rounding.
TOLERANCES = dict(fp64=1e-10, fp32=1e-4, fp16=5e-3, bf16=3e-2)


class Problem(NamedTuple):
    """One attention layer's input, as the layer hands it to the op.

    ``topk`` None is full attention, with ``num_regions`` 1.
    """
    batch: int
    height: int
    width: int
    channels: int
    num_regions: int
    topk: Optional[int]

    @property
    def num_heads(self) -> int:
        return 8 if self.topk is None else self.channels // 32

    @property
    def scale(self) -> float:
        if self.topk is None:
            return (self.channels // self.num_heads)**-0.5
        return self.channels**-0.5

    @property
    def region(self) -> Tuple[int, int]:
        """(h, w), of the padded map's regions."""
        return (-(-self.height // self.num_regions),
                -(-self.width // self.num_regions))

    @property
    def valid_size(self) -> Optional[Tuple[int, int]]:
        h, w = self.region
        padded = h * self.num_regions, w * self.num_regions
        size = self.height, self.width
        return None if size == padded else size

    def describe(self) -> str:
        h, w = self.region
        regions = f'{self.num_regions}x{self.num_regions} regions of {h}x{w}'
        return (f'{self.batch}x{self.height}x{self.width}x{self.channels}, ' +
                ('full' if self.topk is None else f'k={self.topk}, {regions}'))


class Inputs(NamedTuple):
    """q, k, v, and the output's gradient: (N, S, S, h, w, C)."""
    query: Tensor
    key: Tensor
    value: Tensor
    gradient: Tensor
    index: Tensor


def stage_problems(size: Tuple[int, int], num_regions: int, arch: str,
                   batch: int) -> List[Problem]:
    """The four stages' layers for images of a size."""
    problems = []
    for stage, (channels, topk) in enumerate(zip(CHANNELS[arch], TOPKS)):
        height, width = (-(-side // (4 << stage)) for side in size)
        problems.append(
            Problem(batch, height, width, channels, num_regions if topk else 1,
                    topk))
    return problems


def make_inputs(problem: Problem, device: str, dtype: str) -> Inputs:
    """Random slices of a fused projection of a map, and their routing."""
    torch.manual_seed(0)
    s, (h, w), c = problem.num_regions, problem.region, problem.channels
    fused = torch.randn(
        problem.batch, s * h, s * w, 3 * c, device=device, dtype=DTYPES[dtype])
    query, key, value = (
        partition(x, s).requires_grad_() for x in fused.chunk(3, dim=-1))
    # As the layer crops, what reaches the padding is zero.
    gradient = torch.zeros(
        problem.batch, s * h, s * w, c, device=device, dtype=DTYPES[dtype])
    gradient[:, :problem.height, :problem.width].normal_()
    return Inputs(query, key, value, partition(gradient, s),
                  route(problem, query, key))


def route(problem: Problem, query: Tensor, key: Tensor) -> Tensor:
    if problem.num_regions == 1:
        return query.new_zeros((problem.batch, 1, 1), dtype=torch.long)
    return routing_index(query.detach(), key.detach(), problem.topk)


def attention(problem: Problem, inputs: Inputs, backend: str,
              routed: bool) -> Callable[[], Tensor]:
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
        return lambda: F.scaled_dot_product_attention(
            q, k, v, scale=problem.scale)
    return lambda: region_attention(
        query,
        key,
        value,
        route(problem, query, key) if routed else inputs.index,
        num_heads=problem.num_heads,
        scale=problem.scale,
        valid_size=problem.valid_size,
        attend_padding=True,
        backend=backend)


def make_yardstick(problem: Problem, kind: str, device: str,
                   dtype: str) -> Inputs:
    """Inputs of plain attention with as many query-key pairs per head.

    :data:`DENSE` is one sequence per image, as long as its pairs allow;
    :data:`GATHERED` has the op's own shape, one sequence per region, with the
    routed regions' keys and values already lying together.
    """
    torch.manual_seed(0)
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
        torch.randn(
            *shape, length, head_dim, device=device, dtype=DTYPES[dtype])
        for length in (queries, keys, keys, queries))
    return Inputs(query.requires_grad_(), key.requires_grad_(),
                  value.requires_grad_(), gradient, None)


def make_step(attend: Callable[[], Tensor], inputs: Inputs,
              mode: str) -> Callable[[], object]:
    """The function to be timed."""

    def forward() -> None:
        with torch.no_grad():
            attend()

    def both() -> None:
        torch.autograd.grad(attend(), inputs[:3], inputs.gradient)

    return forward if mode == 'forward' else both


def prepare(problem: Problem, backend: str, device: str, dtype: str,
            routed: bool) -> Tuple[Callable[[], Tensor], Inputs]:
    """Make the inputs and the function."""
    if backend in (DENSE, GATHERED):
        inputs = make_yardstick(problem, backend, device, dtype)
    else:
        inputs = make_inputs(problem, device, dtype)
    return attention(problem, inputs, backend, routed), inputs


def errors(problem: Problem, backend: str, device: str,
           dtype: str) -> Dict[str, float]:
    """Relative errors, ``|x - reference| / |reference|``, of o, dq, dk, dv.

    The reference is in fp64, from the same inputs.
    """
    inputs = make_inputs(problem, device, dtype)
    exact = Inputs(*(x.detach().double().requires_grad_() for x in inputs[:3]),
                   inputs.gradient.double(), inputs.index)
    results = []
    for one, name in ((inputs, backend), (exact, 'reference')):
        out = attention(problem, one, name, routed=False)()
        gradients = torch.autograd.grad(out, one[:3], one.gradient)
        results.append([out.detach(), *gradients])
    return {
        name: float((x.double() - y).norm() / y.norm())
        for name, x, y in zip(('o', 'dq', 'dk', 'dv'), *results)
    }


def wrong(found: Dict[str, float], dtype: str) -> Optional[str]:
    """Why the errors are not rounding; None where they are."""
    limit = TOLERANCES[dtype]
    bad = [f'{k} {v:.1e}' for k, v in found.items() if not v <= limit]
    return f"wrong beyond {limit:.0e}: {', '.join(bad)}" if bad else None


def unsupported_reason(backend: str, problem: Problem, device: str,
                       dtype: str) -> Optional[str]:
    """Why the op refuses the backend; found out with one token."""
    token = torch.ones(
        1, 1, 1, 1, 1, problem.channels, device=device, dtype=DTYPES[dtype])
    try:
        region_attention(
            token,
            token,
            token,
            torch.zeros(1, 1, 1, dtype=torch.long, device=device),
            num_heads=problem.num_heads,
            scale=1.,
            backend=backend)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def memory(problem: Problem, backend: str, mode: str, device: str, dtype: str,
           routed: bool) -> int:
    """Most bytes that one call uses above its inputs.

    Raises:
        RuntimeError: The process that was to measure it died.
    """
    args = problem, backend, mode, device, dtype, routed
    if device == 'cuda':
        return _memory(*args)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'biformer_mm.ops'])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=_send_memory, args=(sender, torch.get_num_threads(), *args))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError('the process that was to measure memory ended with '
                           f'status {child.exitcode}') from None
    finally:
        child.join()


def _send_memory(pipe, threads: int, *args) -> None:
    torch.set_num_threads(threads)
    pipe.send(_memory(*args))


def _memory(problem: Problem, backend: str, mode: str, device: str, dtype: str,
            routed: bool) -> int:
    # A small call first: what libraries load and keep for good is not counted.
    side = 2 * problem.num_regions - 1
    small = problem._replace(batch=1, height=side, width=side)
    attend, inputs = prepare(small, backend, device, dtype, routed)
    make_step(attend, inputs, mode)()
    attend, inputs = prepare(problem, backend, device, dtype, routed)
    step = make_step(attend, inputs, mode)
    reset_peak_memory(device)
    before = memory_in_use(device)
    step()
    return max(0, peak_memory(device) - before)


def time_steps(steps: Dict[str, Callable[[], object]], device: str,
               repeats: int) -> Dict[str, Dict]:
    """Time functions in turns (A B A B ...), a spread of seconds for each."""
    timers = {name: Timer(step, device) for name, step in steps.items()}
    times = {name: [] for name in steps}
    for _ in range(repeats):
        for name, timer in timers.items():
            times[name].append(timer.read())
    return {name: spread(values) for name, values in times.items()}
