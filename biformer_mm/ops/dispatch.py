"""The public op: checks its inputs, picks a backend and runs it.

A backend is a module with ``region_attention`` (the op's signature, checked
inputs) and ``unsupported_reason`` (None, or why it cannot serve such inputs).
"""

import logging
import os
from importlib.util import find_spec
from typing import Optional, Tuple

import torch
from torch import Tensor

from .backends import cpu, reference, sdpa
from .tracing import holds_values, is_compiling, is_for_others
from .validation import flag, number, whole

logger = logging.getLogger(__name__)

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# In the order in which 'auto' tries them.
_BACKENDS = {'cpu': cpu}
if find_spec('triton'):
    from .backends import triton

    _BACKENDS['triton'] = triton
_BACKENDS.update(sdpa=sdpa, reference=reference)
_ENV_VAR = 'BIFORMER_MM_BACKEND'
_default = None
# Backends made of PyTorch's own ops, which other readers of a graph know too.
PORTABLE = ('sdpa', 'reference')


def available_backends() -> Tuple[str, ...]:
    """Names that ``backend=`` takes besides 'auto', in order of preference."""
    return tuple(_BACKENDS)


def set_default_backend(name: Optional[str]) -> None:
    """Choose what ``backend='auto'`` means in this process.

    Args:
        name: A name of :func:`available_backends`, 'auto' for the fastest
            that supports the inputs, or None to hand the choice back to the
            environment variable ``BIFORMER_MM_BACKEND`` ('auto' when unset).

    Raises:
        ValueError: The name is unknown.
    """
    global _default
    if name is not None:
        check_backend_name(name)
    _default = name


def check_backend_name(name: str) -> None:
    """Raise ValueError, with the valid names, if ``name`` is not one."""
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
    """Let the queries of each region attend to the tokens of k regions.

    Token-to-token attention of bi-level routing attention (paper section 3.2,
    equations 5 and 6, without the LCE term). Full attention is the case of one
    region. A map (N, H, W, C) is cut into regions, without a copy, by
    :func:`biformer_mm.ops.partition`.

    Args:
        query, key, value: (N, Sh, Sw, h, w, C) each: Sh x Sw regions of h x w
            tokens, of one dtype (fp64, fp32, fp16 or bf16) and on one device.
            Any strides, slices of one fused projection included. N may be 0.
        region_index: int64 or int32, (N, Sh*Sw, k), on the same device. Row i
            lists the regions, counted row by row from 0, that the queries of
            region i attend to; one that is listed twice counts twice. All
            heads share it. What it holds is checked on CPUs alone: a GPU would
            have to wait for it.
        num_heads: Heads m; head j owns channels j*C/m to (j+1)*C/m.
        scale: Finite factor on the dot products, before the softmax.
        valid_size: (H, W) or None. Tokens at or beyond it are padding, neither
            queries nor keys: whatever they hold, even nan, is not used, and
            their output is zero. A query that is left without a key gives
            zero.
        attend_padding: Padding is no query, but is a key like any token.
        backend: A name of :func:`available_backends`, which either runs or
            raises, or 'auto': the first that supports the inputs.

    Returns:
        (N, Sh, Sw, h, w, C), in the dtype of ``query``. Its memory layout is
        the backend's choice.

    Raises:
        ValueError: A type, shape, dtype, device or value breaks a rule above,
            or the backend is unknown.
        RuntimeError: The backend asked for by name cannot serve such inputs.
    """
    _check_tensors(query, key, value, region_index)
    num_heads = whole('num_heads', num_heads, 1)
    if query.shape[5] % num_heads:
        raise ValueError(
            f'the channels must divide into the heads; got C={query.shape[5]} and {num_heads=}'
        )
    scale = number('scale', scale)
    if valid_size is not None:
        valid_size = _check_valid_size(query, valid_size)
    flag('attend_padding', attend_padding)
    check_backend_name(backend)
    if query.shape[0] == 0:  # no backend has to cope; gradients are empty, too
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
    """What ``backend='auto'`` means in this process.

    Raises:
        ValueError: The environment variable names no backend.
    """
    name = _default or os.environ.get(_ENV_VAR, 'auto')
    check_backend_name(name)
    return name


def resolve_backend(backend: str, query: Tensor, num_heads: int) -> str:
    """Name of the backend that serves such inputs; see
    :func:`region_attention`.
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
    for name, module in _BACKENDS.items():
        if name not in PORTABLE and is_for_others():
            # A fused backend would take the traced map's size for a constant.
            reason = "an exported graph is to have none but PyTorch's ops"
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
    size = tuple(whole('a side of valid_size', x) for x in valid_size)
    shape = query.shape
    padded = shape[1] * shape[3], shape[2] * shape[4]
    if not (0 < size[0] <= padded[0] and 0 < size[1] <= padded[1]):
        raise ValueError(
            f'valid_size must lie between (1, 1) and {padded}, the size '
            f'of the padded map; got {size}'
        )
    return size
