"""Run ONNX files on the CPU, in onnxruntime or OpenVINO."""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from biformer_mm.utils.errors import UsageError, explained

if TYPE_CHECKING:
    from onnx import GraphProto

RUNTIMES = ('onnxruntime', 'openvino')
Runner = Callable[[np.ndarray], List[np.ndarray]]


def load(path: str, runtime: str = RUNTIMES[0], threads: Optional[int] = None) -> Runner:
    """Load an ONNX file of one input.

    Args:
        path: The file.
        runtime: One of :data:`RUNTIMES`.
        threads: Number of threads; by default as many as PyTorch uses.

    Returns:
        A function from the input to the outputs, in the file's order.
    """
    loader = _load_openvino if runtime == 'openvino' else _load_onnxruntime
    return loader(path, threads or torch.get_num_threads())


def input_shape(path: str) -> Tuple[int, ...]:
    """Return the shape of a file's only input, with 0 for what may be any number.

    Raises:
        UsageError: It is no ONNX file, or has several inputs.
    """
    inputs = _read_graph(path).input
    if len(inputs) != 1:
        raise UsageError(
            f'the file must have one input; {path} has {len(inputs)}; '
            'give a file of tools/deployment/export_onnx.py'
        )
    return tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim)


def output_names(path: str) -> List[str]:
    """Return the names of a file's outputs.

    Raises:
        UsageError: It is no ONNX file.
    """
    return [out.name for out in _read_graph(path).output]


def check_shape(images: Tensor, shape: Sequence[int]) -> None:
    """Raise UsageError unless images, (N, C, H, W), fit a shape of :func:`input_shape`."""
    found = tuple(images.shape)
    if len(found) != len(shape) or any(want not in (0, got) for got, want in zip(found, shape)):
        wanted = ' x '.join(str(want or 'any') for want in shape)
        raise UsageError(
            f'the file takes images of {wanted}; the pipeline of the config gives '
            f'{" x ".join(map(str, found))}; export for this size, or resize and pad in the '
            'pipeline'
        )


def _read_graph(path: str) -> 'GraphProto':
    import onnx

    if not os.path.isfile(path):
        raise UsageError(f'there is no file {path}; give one of tools/deployment/export_onnx.py')
    with explained(f'{path} must be an ONNX file', 'give one of tools/deployment/export_onnx.py'):
        model = onnx.load(path)
        if not model.graph.output:
            raise ValueError('it has no outputs')
        return model.graph


def require_packages(*names: str) -> None:
    """Raise UsageError unless packages are installed, such as a runtime."""
    missing = [name for name in names if not find_spec(name)]
    if missing:
        raise UsageError(
            f'{", ".join(names)} must be installed; missing: {", ".join(missing)}; '
            f'pip install {" ".join(missing)}'
        )


def version(runtime: str) -> str:
    """Return the version of an installed runtime."""
    if runtime == 'openvino':
        import openvino

        return openvino.__version__
    return import_onnxruntime().__version__


def import_onnxruntime():
    """Import onnxruntime without its telemetry, which starts on import."""
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    import onnxruntime

    return onnxruntime


def _load_onnxruntime(path: str, threads: int) -> Runner:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def _load_openvino(path: str, threads: int) -> Runner:
    import openvino

    core = openvino.Core()
    # Without the hint, CPUs with bfloat16 instructions compute in bfloat16.
    settings = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': threads}
    model = core.compile_model(core.read_model(path), 'CPU', settings)
    return lambda batch: [np.array(x) for x in model([batch]).to_tuple()]
