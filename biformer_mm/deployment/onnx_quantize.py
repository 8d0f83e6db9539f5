"""Quantise the weights of an ONNX file to 8-bit integers, with onnxruntime.

Only products with weights are quantised. Those of activations, in the attention and
between regions in the routing, stay in float32.
"""

import logging
import os
import tempfile
import warnings
from contextlib import contextmanager
from typing import Iterable, Iterator

from torch import Tensor

from biformer_mm.utils.atomic_file import whole_file

from .runtimes import import_onnxruntime

_LINEAR = ['MatMul', 'Gemm']


def quantize_dynamic(path: str, out: str) -> None:
    """Quantise linear layers; their inputs get a scale from each batch when the file runs.

    Args:
        path: The file.
        out: File to write.

    Raises:
        OSError: It cannot be written.
    """
    with _prepared(path, out) as (prepared, unfinished):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            prepared,
            unfinished,
            op_types_to_quantize=_LINEAR,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def quantize_static(path: str, out: str, batches: Iterable[Tensor]) -> None:
    """Quantise linear layers and convolutions; their inputs get fixed scales.

    Args:
        path: The file.
        out: File to write.
        batches: Normalised images of its input's shape, from whose extreme values the
            scales follow.

    Raises:
        OSError: It cannot be written.
    """
    with _prepared(path, out) as (prepared, unfinished):
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        graph = onnx.load(prepared).graph
        constants = {tensor.name for tensor in graph.initializer}
        feeds = ({graph.input[0].name: batch.numpy()} for batch in batches)

        class Reader(CalibrationDataReader):
            def get_next(self):
                return next(feeds, None)

        quantize_static(
            prepared,
            unfinished,
            Reader(),
            op_types_to_quantize=['Conv', *_LINEAR],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name
                for node in graph.node
                if node.op_type == 'MatMul' and not constants.intersection(node.input)
            ],
        )


@contextmanager
def _prepared(path: str, out: str) -> Iterator:
    """Yield a copy of a file with the shapes that quantisation needs, and a file to write."""
    import_onnxruntime()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory() as folder, whole_file(out) as unfinished:
        prepared = os.path.join(folder, 'prepared.onnx')
        root.setLevel(logging.ERROR)  # it advises what is done here
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                quant_pre_process(path, prepared)
                yield prepared, unfinished
        finally:
            root.setLevel(level)
