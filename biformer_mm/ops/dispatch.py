"""The public op ``region_attention``: validate the inputs, choose a backend, run it.

A backend is a module with two functions: ``region_attention``, with the signature of the op, which
receives validated inputs; and ``unsupported_reason``, which returns None, or says why the backend
cannot serve the inputs.
"""

import logging
import os
from importlib.util import find_spec
from typing import Optional, Tuple

import torch
from torch import Tensor

from .backends import cpu, portable, reference, sdpa
from .tracing import holds_values, is_compiling, is_for_others, is_traced
from .validation import check_bool, check_int, check_number

logger = logging.getLogger(__name__)

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# 'auto' tries them in this order; in a traced graph it means 'portable'.
_BACKENDS = {'cpu': cpu}
if find_spec('triton'):
    from .backends import triton

    _BACKENDS['triton'] = triton
_BACKENDS.update(sdpa=sdpa, reference=reference, portable=portable)
_ENV_VAR = 'BIFORMER_MM_BACKEND'
_default = None
# Backends made of PyTorch's own ops only, so that other software can read an exported graph.
PORTABLE = ('portable', 'sdpa', 'reference')


def available_backends() -> Tuple[str, ...]:
    """Return the names of the backends, in order of preference.

    These and 'auto' are the values that ``backend=`` accepts.
    """
    return tuple(_BACKENDS)


def set_default_backend(name: Optional[str]) -> None:
    """Set what ``backend='auto'`` means in this process.

    Args:
        name: A name from :func:`available_backends`; 'auto' for the fastest that supports the
            inputs; or None to follow the environment variable ``BIFORMER_MM_BACKEND`` ('auto' if
            it is not set).

    Raises:
        ValueError: The name is unknown.
    """
    global _default
    if name is not None:
        check_backend_name(name)
    _default = name


def check_backend_name(name: str) -> None:
    """Raise ValueError, with the valid names, if ``name`` is not the name of a backend."""
    if name not in ('auto', *_BACKENDS):
        valid = ', '.join(repr(n) for n in ('auto', *_BACKENDS))
        raise ValueError(f'backend must be one of {valid}; got {name!r}')


def region_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region_index: Tensor,
    *,
    num_heads: int,
    scale: float,
    valid_size: Optional[Tuple[int, int]] = None,
    attend_padding: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Let the queries of each region attend to the tokens of k routed regions.

    This is the token-to-token attention of bi-level routing attention (paper section 3.2,
    equations 5 and 6), without the LCE term. With a single region it is full attention. Use
    :func:`biformer_mm.ops.partition` to cut a map (N, H, W, C) into regions without a copy.

    Args:
        query: (N, Sh, Sw, h, w, C): Sh x Sw regions of h x w tokens. The dtype is fp64, fp32, fp16
            or bf16. Strides are free, so slices of one fused projection are fine. N may be 0.
        key: Shape, dtype and device of ``query``.
        value: Shape, dtype and device of ``query``.
        region_index: int64 or int32, (N, Sh*Sw, k), on the device of ``query``. Row i lists the
            regions that the queries of region i attend to. Regions are numbered row by row from
            0. A region listed twice counts twice. All heads share the index. Its values are
            checked on CPUs only, as a check would make a GPU wait.
        num_heads: Number of heads, m. Head j owns channels j*C/m to (j+1)*C/m.
        scale: Finite factor on the dot products before the softmax.
        valid_size: (H, W) or None. Tokens at or beyond it are padding: neither queries nor keys.
            Their values are not used, not even nan, and their output is zero. A query without any
            key gives zero.
        attend_padding: Use the padding as keys, but not as queries.
        backend: 'auto' for the first backend that supports the inputs, or a name from
            :func:`available_backends`.

    Returns:
        (N, Sh, Sw, h, w, C), in the dtype of ``query``. The memory layout depends on the backend.

    Raises:
        ValueError: A type, shape, dtype, device or value breaks a rule above, or the backend is
            unknown.
        RuntimeError: The backend was chosen by name and cannot serve the inputs.
    """
    _check_tensors(query, key, value, region_index)
    num_heads = check_int('num_heads', num_heads, 1)
    if query.shape[5] % num_heads:
        raise ValueError(
            f'the channels must divide into the heads; got C={query.shape[5]} and {num_heads=}'
        )
    scale = check_number('scale', scale)
    if valid_size is not None:
        valid_size = _check_valid_size(query, valid_size)
    check_bool('attend_padding', attend_padding)
    if query.shape[0] == 0:  # spares the backends this case; gradients are empty, too
        check_backend_name(backend)
        return query + key + value
    name = resolve_backend(backend, query, num_heads)
    return _BACKENDS[name].region_attention(
        query,
        key,
        value,
        region_index,
        num_heads=num_heads,
        scale=scale,
        valid_size=valid_size,
        attend_padding=attend_padding,
    )


def default_backend() -> str:
    """Return what ``backend='auto'`` means in this process.

    Raises:
        ValueError: ``BIFORMER_MM_BACKEND`` is not the name of a backend.
    """
    name = _default or os.environ.get(_ENV_VAR, 'auto')
    check_backend_name(name)
    return name


def resolve_backend(backend: str, query: Tensor, num_heads: int) -> str:
    """Return the name of the backend that serves these inputs.

    Args:
        backend: As in :func:`region_attention`.
        query: (N, Sh, Sw, h, w, C).
        num_heads: Number of heads, m.

    Raises:
        ValueError: The backend is unknown.
        RuntimeError: The backend was chosen by name and cannot serve the inputs.
    """
    check_backend_name(backend)
    if backend == 'auto':
        backend = default_backend()
    if backend != 'auto':
        reason = _BACKENDS[backend].unsupported_reason(query, num_heads)
        if reason:
            raise RuntimeError(
                f'backend {backend!r} was asked for but {reason}; use '
                "backend='auto' to let the inputs decide"
            )
        return backend
    if is_traced():
        _log('region_attention: portable runs, as a graph is traced')
        return 'portable'
    for name, module in _BACKENDS.items():
        if name not in PORTABLE and is_for_others():
            # A trace of a fused backend would fix the size of the map.
            reason = "an exported graph may only contain PyTorch's ops"
        else:
            reason = module.unsupported_reason(query, num_heads)
        if reason is None:
            _log('region_attention: %s runs', name)
            return name
        _log('region_attention: not %s, as %s', name, reason)
    raise RuntimeError(f'no backend supports {query.dtype=} on {query.device=}')


def _log(message: str, *args: str) -> None:
    if not is_compiling():  # it cannot trace a logger
        logger.debug(message, *args)


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, region_index: Tensor) -> None:
    tensors = dict(query=query, key=key, value=value, region_index=region_index)
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f'{name} must be a tensor; got {x!r}')
        if x.device != query.device:
            raise ValueError(
                f'{name} must be on the device of query, {query.device}; got {x.device}'
            )
    shape = tuple(query.shape)
    if query.dim() != 6 or key.shape != shape or value.shape != shape:
        raise ValueError(
            'query, key and value must share one shape (N, Sh, Sw, h, w, C); '
            f'got {shape}, {tuple(key.shape)} and {tuple(value.shape)}'
        )
    if min(shape[1:]) < 1:
        raise ValueError(
            f'Sh, Sw, h, w and C must be at least 1; got the shape (N, Sh, Sw, h, w, C) = {shape}'
        )
    if query.dtype not in _DTYPES or not (query.dtype == key.dtype == value.dtype):
        raise ValueError(
            'query, key and value must share one floating-point dtype; got '
            f'{query.dtype}, {key.dtype} and {value.dtype}, not one of '
            f'{_DTYPES}'
        )
    batch, regions = shape[0], shape[1] * shape[2]
    if (
        region_index.dtype not in (torch.int64, torch.int32)
        or (region_index.dim() != 3)
        or (tuple(region_index.shape[:2]) != (batch, regions))
    ):
        raise ValueError(
            'region_index must be an integer tensor (N, Sh*Sw, k) = '
            f'({batch}, {regions}, k); got {tuple(region_index.shape)} of '
            f'{region_index.dtype}, not torch.int64 or torch.int32'
        )
    if not 1 <= region_index.shape[2] <= regions:
        raise ValueError(
            f'k must be between 1 and the number of regions, {regions}; '
            f'got k={region_index.shape[2]}'
        )
    if batch and region_index.is_cpu and holds_values(region_index):
        least, most = map(int, region_index.aminmax())
        if least < 0 or most >= regions:
            raise ValueError(
                f'region_index must hold regions, 0 to {regions - 1}; got {least} to {most}'
            )


def _check_valid_size(query: Tensor, valid_size: Tuple[int, int]) -> Tuple[int, int]:
    if not isinstance(valid_size, (tuple, list)) or len(valid_size) != 2:
        raise ValueError(f'valid_size must be (H, W) or None; got {valid_size!r}')
    height, width = (check_int('a side of valid_size', x) for x in valid_size)
    shape = query.shape
    padded = shape[1] * shape[3], shape[2] * shape[4]
    if not (0 < height <= padded[0] and 0 < width <= padded[1]):
        raise ValueError(
            f'valid_size must lie between (1, 1) and {padded}, the size '
            f'of the padded map; got {(height, width)}'
        )
    return height, width
