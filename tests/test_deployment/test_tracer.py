"""The ONNX exporter that traces, which most pipelines call: any batch, and any size that fits."""

import io
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from onnx_models import make

from biformer_mm.models.layers.attention import BiLevelRoutingAttention

pytestmark = [
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore:Constant folding'),
]
AXES = {0: 'batch', 2: 'height', 3: 'width'}


def export(model, images, axes=AXES, opset=17):
    """The file's bytes."""
    pytest.importorskip('onnx')
    file, options = io.BytesIO(), {}
    if 'dynamo' in torch.onnx.export.__code__.co_varnames:  # PyTorch 2.5 and later
        options['dynamo'] = False
    with torch.no_grad():
        torch.onnx.export(
            model,
            (images,),
            file,
            opset_version=opset,
            input_names=['image'],
            dynamic_axes={'image': axes},
            **options,
        )
    return file.getvalue()


def start(content):
    """A function from images to the file's outputs."""
    ort = pytest.importorskip('onnxruntime')
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    return lambda images: [
        torch.from_numpy(x) for x in session.run(None, {'image': images.numpy()})
    ]


def assert_equal(run, model, shape):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images)
    for found, value in zip(run(images), expected):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('opset', [11, 17])
def test_any_batch_and_any_size_that_the_regions_divide(opset):
    model = make(stages=2)
    run = start(export(model, torch.randn(2, 3, 96, 96), opset=opset))
    for shape in ((1, 3, 96, 96), (3, 3, 96, 96), (1, 3, 192, 96)):
        assert_equal(run, model, shape)
    with pytest.raises(Exception, match='Reshape'):
        run(torch.randn(1, 3, 40, 56))  # would need padding


@pytest.mark.parametrize('padding, opset', [('legacy', 17), ('masked', 11)])
def test_any_size_where_tracing_padded(padding, opset):
    model = make(stages=2, padding=padding)
    run = start(export(model, torch.randn(2, 3, 40, 56), opset=opset))
    for shape in ((1, 3, 40, 56), (3, 3, 33, 70), (1, 3, 96, 96)):
        assert_equal(run, model, shape)


@pytest.mark.parametrize('padding', ['legacy', 'masked'])
@pytest.mark.parametrize('height, width', [(15, 16), (16, 15), (9, 16), (9, 9)])
def test_a_layer_traced_with_padding_takes_any_size(padding, height, width):
    """Also with padding along one axis only, and with regions of nothing but padding (9)."""
    layer = BiLevelRoutingAttention(32, 2, 4, 3, padding).eval()
    axes = {0: 'n', 1: 'h', 2: 'w'}
    run = start(export(layer, torch.randn(2, height, width, 32), axes))
    for size in (height, width), (16, 16), (14, 16), (16, 13), (9, 9), (5, 13), (8, 20):
        x = torch.randn(3, *size, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(run(x)[0], layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('axes', [AXES, {2: 'height', 3: 'width'}])
def test_automatic_regions_hold_for_the_traced_size(axes):
    model = make('auto', stages=2)
    run = start(export(model, torch.randn(2, 3, 64, 96), axes))
    for batch in (1, 2) if 0 in axes else (2,):
        assert_equal(run, model, (batch, 3, 64, 96))
    # At the second and third all maps have as many tokens.
    for size in (96, 96), (96, 64), (128, 48):
        with pytest.raises(Exception, match='Non-zero status code'):
            run(torch.randn(2, 3, *size))


def test_automatic_regions_hold_for_the_size_of_a_trace():
    layer = BiLevelRoutingAttention(32, 2, 'auto', 2)
    with torch.no_grad():
        trace = torch.jit.trace(layer, torch.randn(1, 16, 24, 32), check_trace=False)
        x = torch.randn(3, 16, 24, 32)
        torch.testing.assert_close(trace(x), layer(x))
        for size in (24, 16), (16, 16), (12, 32):
            with pytest.raises(RuntimeError, match='is invalid for input of size'):
                trace(torch.randn(1, *size, 32))


@pytest.mark.parametrize('opset, size', [(11, 16), (17, 15)])
def test_what_the_graph_of_a_layer_computes(opset, size):
    """A layer gathers keys and values, and moves them before the gather only."""
    onnx = pytest.importorskip('onnx')
    layer = BiLevelRoutingAttention(32, 2, 4, 3).eval()
    content = export(layer, torch.randn(2, size, size, 32), {0: 'n', 1: 'h', 2: 'w'}, opset)
    graph = onnx.load_model_from_string(content).graph
    made_by = {name: node for node in graph.node for name in node.output}
    kinds = Counter(node.op_type for node in graph.node)
    assert (kinds['Softmax'], kinds['Split']) == (1, 1)
    # No masks and no slices of maps without padding; with it, masks of queries and output only.
    assert kinds['Where'] == (2 if size == 15 else 0)
    shapes = {node.input[0] for node in graph.node if node.op_type == 'Slice'}
    assert all(made_by[name].op_type == 'Shape' for name in shapes) or size == 15

    def sources(name, through):
        """Kinds of the nodes from a tensor back to its gather."""
        node = made_by[name]
        if node.op_type in through:
            return [node.op_type, *sources(node.input[0], through)]
        return [node.op_type]

    (softmax,) = (node for node in graph.node if node.op_type == 'Softmax')
    (weighted,) = (node for node in graph.node if softmax.output[0] in node.input)
    scores = made_by[softmax.input[0]]
    moves = ('Reshape', 'Transpose')
    # The runtime's product takes transposed keys as they are.
    assert sources(scores.input[1], moves) == ['Transpose', 'Reshape', 'Gather']
    assert sources(weighted.input[1], moves) == ['Reshape', 'Gather']
    # The queries are scaled, the keys are not.
    assert sources(scores.input[0], moves)[-1] == 'Mul'


def test_a_traced_graph_calls_no_fused_attention(monkeypatch):
    """Because mmdeploy replaces it by one that divides by the scale."""

    def replaced(*args, **kwargs):
        raise AssertionError('was called')

    model = make(stages=2)
    monkeypatch.setattr(F, 'scaled_dot_product_attention', replaced)
    with torch.no_grad():
        torch.jit.trace(model, torch.randn(1, 3, 64, 64), check_trace=False)
