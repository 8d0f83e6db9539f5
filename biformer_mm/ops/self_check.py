"""Check on each GPU, once, that the fused kernels compute the right values.

A few small problems run forward and backward and are compared with the reference in fp64. A pass
is recorded on disk, so the check takes a few seconds once per GPU, driver and set of versions.
"""

import hashlib
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .backends import reference
from .backends.triton_config import precision_of

ENV_VAR = 'BIFORMER_MM_SELF_CHECK'  # '0' switches the check off
# Largest root mean square of the error, relative to that of the exact values; see
# docs/numerics.md.
TOLERANCES = {'ieee': 1e-5, 'tf32': 3e-3, torch.float16: 3e-3, torch.bfloat16: 2e-2}
NUM_HEADS, BATCH, SCALE = 2, 2, 0.3
_found: Dict[Tuple, Optional[str]] = {}
_thread = threading.local()


class Problem(NamedTuple):
    """Sh x Sw ``regions`` of h x w tokens (``region``), and options of the op."""

    regions: Tuple[int, int]
    region: Tuple[int, int]
    topk: int
    valid_size: Optional[Tuple[int, int]] = None
    attend_padding: bool = False


PROBLEMS = (
    Problem((1, 3), (7, 7), 2),  # tiles with a remainder
    Problem((1, 2), (8, 8), 1),  # whole tiles
    Problem((2, 2), (5, 6), 2, (9, 11), True),
    Problem((3, 3), (2, 2), 2, (3, 5)),  # some regions have no token
    # Regions so small that the kernels of triton_map run.
    Problem((2, 3), (2, 2), 6),
    Problem((3, 3), (2, 2), 9, (5, 3)),
)


def fault(
    device: torch.device, about: str, first_error: Callable[[], Optional[str]], may_run: bool
) -> Optional[str]:
    """Return why some kernels must not be used, or None if they passed.

    Warns once if they failed.

    Args:
        device: A GPU.
        about: The kernels, and what else the result depends on.
        first_error: Runs the check. Returns what is wrong, or None.
        may_run: Whether a kernel may be started now. If not, only earlier results count.
    """
    if os.environ.get(ENV_VAR) == '0' or getattr(_thread, 'checks', False):
        return None
    key = device, about
    if key not in _found and may_run:
        _found[key] = _check(device, about, first_error)
    return _found.get(key)


def _check(
    device: torch.device, about: str, first_error: Callable[[], Optional[str]]
) -> Optional[str]:
    about = f'{describe(device)}, {about}'
    passed = _folder() / hashlib.sha256(about.encode()).hexdigest()[:32]
    if passed.exists():
        return None

    def run() -> Optional[str]:
        _thread.checks = True  # the ops that run in here call fault(), too
        try:
            return first_error()
        except Exception as error:  # Triton and drivers raise many kinds
            lines = str(error).splitlines() or ['']
            return f'{type(error).__name__}: {lines[0]}'

    # In another thread, as none of the caller's modes apply there: autograd's, inference,
    # autocast, default device, and those that count or record ops.
    with ThreadPoolExecutor(1) as thread:
        reason = thread.submit(run).result()
    if reason is None:
        _remember(passed, about)
        return None
    warnings.warn(
        f"biformer_mm's fused kernels failed on this GPU: {reason}. "
        "backend='auto' uses PyTorch's ops here, which are right, but "
        'slower and take more memory. Please report this as an issue of '
        f'biformer_mm, with: {about}.',
        RuntimeWarning,
        stacklevel=2,
    )
    return f'its self-check failed on this GPU ({reason})'


def describe(device: torch.device) -> str:
    """Describe what the result depends on: GPU, driver, versions, kernels."""
    import triton

    kernels = hashlib.sha256()
    for path in sorted((Path(__file__).parent / 'backends').glob('triton*.py')):
        kernels.update(path.read_bytes())
    capability = torch.cuda.get_device_capability(device)
    return (
        f'{torch.cuda.get_device_name(device)} {capability}, '
        f'driver {_driver()}, torch {torch.__version__}, '
        f'triton {triton.__version__}, '
        f'kernels {kernels.hexdigest()[:12]}'
    )


def _driver() -> str:
    linux = Path('/proc/driver/nvidia/version')
    if linux.exists():
        return linux.read_text().splitlines()[0]
    from torch.utils import collect_env

    return str(collect_env.get_nvidia_driver_version(collect_env.run))


def _folder() -> Path:
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'biformer_mm' / 'self_check'


def _remember(path: Path, about: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(about + '\n')
    except OSError:
        pass  # the home is read-only: the next process checks again


def first_error(
    device: torch.device, dtype: torch.dtype, head_dim: int, run: Callable[..., Sequence[Tensor]]
) -> Optional[str]:
    """Run attention's problems and describe the first error, or return None.

    Args:
        device: A GPU.
        dtype: Dtype of queries, keys and values.
        head_dim: Channels of a head, d.
        run: Takes query, key, value, region_index, the gradient of the output and the op's
            options. Returns the output and the gradients of query, key and value.
    """
    for problem in PROBLEMS:
        for name, error in errors(problem, device, dtype, head_dim, run).items():
            if not error <= tolerance(dtype):  # true for nan, too
                return (
                    f'{name} is off by {error:.1e}, more than {tolerance(dtype):.0e}, in {problem}'
                )
    return None


def tolerance(dtype: torch.dtype) -> float:
    """Return the largest allowed :func:`relative_rms` of a dtype."""
    return TOLERANCES.get(dtype) or TOLERANCES[precision_of(dtype)]


def errors(
    problem: Problem, device: torch.device, dtype: torch.dtype, head_dim: int, run: Callable
) -> Dict[str, float]:
    """Return the relative errors of o, dq, dk and dv."""
    query, key, value, index, dout, options = make_inputs(problem, device, dtype, head_dim)
    # Fill the memory that the outputs will get: what a kernel leaves out is then nan.
    torch.full((8, *query.shape), float('nan'), device=device, dtype=dtype)
    found = run(query, key, value, index, dout, **options)
    exact = exactly(query, key, value, index, dout, options)
    return {
        name: relative_rms(x.cpu(), y) for name, x, y in zip(('o', 'dq', 'dk', 'dv'), found, exact)
    }


def make_inputs(problem: Problem, device: torch.device, dtype: torch.dtype, head_dim: int) -> Tuple:
    """Make the inputs of a problem.

    Returns:
        Query, key and value, as slices of one fused projection of a map; an index with
        duplicates; the gradient of the output; the op's options.
    """
    (sh, sw), (h, w) = problem.regions, problem.region
    channels = NUM_HEADS * head_dim
    random = torch.Generator().manual_seed(0)
    fused = torch.randn(BATCH, sh, h, sw, w, 4 * channels, generator=random)
    fused = fused.to(device, dtype).transpose(2, 3)
    query, key, value, dout = fused.chunk(4, dim=-1)
    index = torch.randint(sh * sw, (BATCH, sh * sw, problem.topk), generator=random)
    return (
        query,
        key,
        value,
        index.to(device),
        dout,
        dict(
            num_heads=NUM_HEADS,
            scale=SCALE,
            valid_size=problem.valid_size,
            attend_padding=problem.attend_padding,
        ),
    )


def exactly(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, dout: Tensor, options: Dict
) -> Tuple[Tensor, ...]:
    """Compute output and gradients by the reference, in fp64 on the CPU."""
    q, k, v = (x.cpu().double().requires_grad_() for x in (query, key, value))
    out = reference.region_attention(q, k, v, index.cpu(), **options)
    gradients = torch.autograd.grad(out, (q, k, v), dout.cpu().double())
    return (out.detach(), *gradients)


def relative_rms(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the error, relative to that of the exact values.

    The latter counts as at least 0.1.
    """
    error = (found.double() - exact).square().mean().sqrt()
    return float(error / exact.square().mean().sqrt().clamp(min=0.1))
