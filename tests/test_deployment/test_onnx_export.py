"""Export: torch.export, torch.jit.trace and ONNX give the eager results."""

from pathlib import Path

import golden
import pytest
import torch
from mmengine.utils import digit_version
from onnx_models import ARCH, make, run_file
from torch import nn

from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.deployment import onnx_export, runtimes
from biformer_mm.deployment.onnx_check import FP32
from biformer_mm.deployment.onnx_export import (
    Dynamic,
    FeaturePath,
    export_onnx,
    pin_backend,
    size_step,
)
from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError

TORCH = digit_version(torch.__version__)
needs_export = pytest.mark.skipif(digit_version('2.6') > TORCH, reason='PyTorch before 2.6')


@pytest.mark.first_tier(1)
@needs_export
@pytest.mark.parametrize(
    'backend, padding', [('sdpa', 'masked'), ('reference', 'legacy'), ('auto', 'masked')]
)
def test_torch_export_takes_any_batch(backend, padding):
    model = make(padding=padding, attn_backend=backend)
    with torch.no_grad():
        program = torch.export.export(
            model,
            (torch.randn(2, 3, 40, 56),),
            dynamic_shapes={'x': {0: torch.export.Dim('batch', min=1)}},
        )
        operators = {str(node.target) for node in program.graph.nodes}
        assert not any('biformer_mm' in name for name in operators)
        for batch in 1, 5:
            images = torch.randn(batch, 3, 40, 56)
            for out, expected in zip(program.module()(images), model(images)):
                torch.testing.assert_close(out, expected)


@pytest.mark.first_tier(3)
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('padding', ['legacy', 'masked'])
@pytest.mark.parametrize('backend', ['sdpa', 'reference', 'auto'])
def test_trace_is_right_at_other_sizes_and_batches(backend, padding):
    model = make(padding=padding, attn_backend=backend)
    with torch.no_grad():
        trace = torch.jit.trace(model, torch.randn(2, 3, 40, 56))
        for shape in ((1, 3, 96, 96), (3, 3, 33, 70)):
            images = torch.randn(shape)
            for out, expected in zip(trace(images), model(images)):
                torch.testing.assert_close(out, expected)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_trace_without_padding_fails_where_it_would_pad():
    model = make(padding='masked')
    with torch.no_grad():
        trace = torch.jit.trace(model, torch.randn(1, 3, 96, 96))
        images = torch.randn(2, 3, 192, 96)
        for out, expected in zip(trace(images), model(images)):
            torch.testing.assert_close(out, expected)
        with pytest.raises(RuntimeError, match='is invalid for input of size'):
            trace(torch.randn(1, 3, 40, 56))


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('name', ['backbone_s8_padded', 'backbone_s16_padded'])
def test_onnx_gives_the_golden_outputs(name, onnx, tmp_path):
    arrays = golden.load(name)
    model = BiFormer(golden.small_arch()[0], arrays['n_win'].item())
    model.load_state_dict(
        convert_state_dict(golden.section(golden.load('backbone_state'), 'state'))
    )
    path = tmp_path / 'new' / 'backbone.onnx'
    export_onnx(FeaturePath(model), str(path), torch.randn(arrays['x'].shape))
    outs = run_file(path, arrays['x'])
    assert len(outs) == 4
    for i, out in enumerate(outs):
        golden.assert_close(out, arrays[f'out/{i}'], golden.OUT_RTOL, f'out/{i}')
        assert (out - arrays[f'out/{i}']).abs().max() < 1e-4


@pytest.mark.slow
def test_onnx_takes_any_batch(onnx, batches_file):
    model, written, path = batches_file
    values = (*written.graph.input, *written.graph.output)
    assert [v.name for v in values] == ['image', 'c2', 'c3', 'c4', 'c5']
    for value in values:
        assert value.type.tensor_type.shape.dim[0].dim_param == 'batch'
    for batch in 1, 4:
        images = torch.randn(batch, 3, 40, 56)
        with torch.no_grad():
            expected = model(images)
        for out, value in zip(run_file(path, images), expected):
            torch.testing.assert_close(out, value, rtol=1e-4, atol=1e-5)


def test_onnx_holds_its_own_operators_alone(onnx, batches_file):
    model, written, _ = batches_file
    assert {node.domain for node in written.graph.node} == {''}
    assert [(o.domain, o.version) for o in written.opset_import] == [('', onnx_export.OPSET)]
    assert {m.attn_backend for m in model.modules() if hasattr(m, 'attn_backend')} == {'portable'}


def test_onnx_holds_no_path_of_a_source(onnx, batches_file):
    assert b'biformer' not in Path(batches_file[2]).read_bytes()


@pytest.mark.slow
def test_onnx_takes_any_size_that_the_regions_divide(onnx, tmp_path):
    import onnxruntime

    model, path = make(num_regions=2, stages=3), str(tmp_path / 'model.onnx')
    assert size_step(model) == 32
    export_onnx(FeaturePath(model), path, torch.randn(1, 3, 64, 96), Dynamic(size=True))
    for size in (64, 64), (160, 32), (96, 128):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = model(images)
        for out, value in zip(run_file(path, images), expected):
            torch.testing.assert_close(out, value, rtol=1e-4, atol=1e-5)
    # What the file cannot know, how to pad, ends in an error.
    with pytest.raises(Exception, match='requested shape') as error:
        run_file(path, torch.randn(1, 3, 72, 64))
    assert type(error.value).__module__.startswith(onnxruntime.__name__)


@pytest.mark.slow
def test_a_stage_of_one_region_has_nothing_to_choose(onnx, tmp_path):
    """As in configs/ablation/biformer_stl_s8-4-2-1_in1k.py."""
    model = BiFormer(
        dict(ARCH, topks=(2, 2, 2, 1)), num_regions=(4, 2, 2, 1), out_indices=range(4)
    ).eval()
    path = str(tmp_path / 'model.onnx')
    _, agreement = export_onnx(FeaturePath(model), path, torch.randn(1, 3, 64, 64))
    # The regions of 16 + 4 + 4 rows were compared.
    assert agreement.routing.rows == 24
    assert onnx.load(path).graph.output


def test_size_step_is_the_least_that_divides():
    assert size_step(make(num_regions=(8, 4, 2, 1))) == 32
    assert size_step(make(num_regions=8)) == 128
    assert size_step(make(num_regions=7)) == 224
    with pytest.raises(UsageError, match="num_regions='auto'"):
        size_step(make(num_regions='auto'))
    arch = dict(ARCH, attention=['bi_level_routing', 'full', 'full', 'full'])
    with pytest.raises(UsageError, match='stage 2 has GlobalAttention; leave it out'):
        size_step(BiFormer(arch))


@pytest.mark.parametrize(
    'num_regions, message',
    [
        (8, r'multiples of 128, .* at least 256; got 256 300; .*take images of 256 256'),
        ('auto', "got num_regions='auto'; leave it out"),
    ],
)
def test_open_size_is_refused(num_regions, message, onnx, tmp_path):
    with pytest.raises(UsageError, match=message):
        export_onnx(
            FeaturePath(make(num_regions)),
            str(tmp_path / 'model.onnx'),
            torch.randn(1, 3, 256, 300),
            Dynamic(size=True),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_half_precision(onnx, tmp_path):
    """Weights are halves, and results are as close as halves are."""
    model, path = make(), str(tmp_path / 'model.onnx')
    images = torch.randn(2, 3, 40, 56)
    written, agreement = export_onnx(FeaturePath(model), path, images, Dynamic(True), half=True)
    kinds = {tensor.data_type for tensor in written.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}  # of convolutions
    assert 4 * Path(path).stat().st_size < 3 * 4 * sum(p.numel() for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(1e-5 < d.relative < 1e-2 for d in agreement.outputs.values())
    for out, value in zip(run_file(path, images), model(images)):
        assert out.dtype == torch.float32
        assert golden.relative_error(out, value) < 1e-2


def test_a_backend_asked_for_by_name_is_kept_or_refused():
    assert pin_backend(make()) == ('portable',)
    assert pin_backend(make(attn_backend='reference')) == ('reference',)
    with pytest.raises(UsageError, match="stages.0.0.attn asks for 'cpu'; set attn_backend='auto'"):
        pin_backend(make(attn_backend='cpu'))


@pytest.mark.parametrize('backbone, kind', [(None, 'none'), (nn.Identity(), 'Identity')])
def test_another_backbone_alone_is_refused(backbone, kind):
    model = nn.Module()
    model.backbone = backbone
    with pytest.raises(UsageError, match=f'backbone of Module is {kind}: leave it out'):
        FeaturePath(model, backbone=True)


def test_what_differs_is_not_written(onnx, tmp_path, monkeypatch):
    """Nor is anything left behind, nor an older file touched."""
    monkeypatch.setattr(onnx_export, 'FP32', FP32._replace(output=0.0))
    path = tmp_path / 'model.onnx'
    path.write_text('older')
    arguments = FeaturePath(make(stages=1)), str(path), torch.randn(1, 3, 40, 56)
    with pytest.raises(UsageError, match='model.onnx exists; add force=True'):
        export_onnx(*arguments)
    with pytest.raises(UsageError, match="each output must equal PyTorch's"):
        export_onnx(*arguments, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']
    assert path.read_text() == 'older'


def test_packages_are_asked_for(monkeypatch, tmp_path):
    arguments = FeaturePath(make(stages=1)), str(tmp_path / 'x'), torch.randn(1, 3, 40, 56)
    monkeypatch.setattr(torch, '__version__', '2.1.2')
    with pytest.raises(UsageError, match='PyTorch 2.6 or later; got 2.1.2'):
        export_onnx(*arguments)
    monkeypatch.setattr(torch, '__version__', '2.11.0')
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: name == 'onnx')
    for runtime in 'onnxruntime', 'openvino':
        message = f'missing: onnxscript, {runtime}; pip install onnxscript {runtime}'
        with pytest.raises(UsageError, match=message):
            export_onnx(*arguments, runtime=runtime)


@pytest.mark.slow
def test_choices_of_quadtree_attention_are_no_routing(tmp_path):
    arch = dict(ARCH, attention=['bi_level_routing', 'quadtree', 'quadtree', 'full'])
    torch.manual_seed(0)
    model = BiFormer(arch, num_regions=2).eval()
    path = str(tmp_path / 'model.onnx')
    _, agreement = export_onnx(FeaturePath(model), path, torch.randn(1, 3, 64, 96))
    assert agreement.routing.rows == 4 * len(model.stages[0])
