"""What all attentions of an architecture share."""

import io

import onnxruntime
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.utils import digit_version

from biformer_mm.models import BiFormer
from biformer_mm.models.layers import ATTENTIONS, ROUTING, build_attention

NAMES = [ROUTING, *ATTENTIONS]
SMALL = dict(base='stl', embed_dims=(16, 32, 64, 96), depths=(2, 2, 2, 2), head_dim=16)
newer = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'), reason='needs PyTorch 2.6'
)


def build(attention, **options):
    torch.manual_seed(0)
    return BiFormer(dict(SMALL, attention=attention), **options)


def output_and_gradients(net, x):
    net.zero_grad()
    out = net(x)
    sum(map_.square().mean() for map_ in out).backward()
    return [*out, *(p.grad.clone() for p in net.parameters())]


@pytest.mark.parametrize('name', ATTENTIONS)
@pytest.mark.parametrize('block', [0, 1])
@pytest.mark.parametrize('size', [(1, 1), (14, 14), (15, 9), (5, 20)])
def test_any_size(name, block, size):
    torch.manual_seed(0)
    layer = build_attention(name, 16, 2, stage=0, block=block, options={})
    x = torch.randn(2, *size, 16, requires_grad=True)
    out = layer(x)
    out.square().sum().backward()
    assert out.shape == x.shape and out.isfinite().all() and x.grad.isfinite().all()
    alone = torch.cat([layer(image[None]) for image in x])
    torch.testing.assert_close(alone, out)  # images do not see one another


@pytest.mark.parametrize('name', ATTENTIONS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_close(name, dtype):
    net = build(name, out_indices=(3,)).eval()
    x = torch.randn(1, 3, 96, 64)
    expected = net(x)[0]
    found = net.to(dtype)(x.to(dtype))[0]
    assert found.dtype == dtype
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize('name', ATTENTIONS)
def test_autocast_trains(name):
    net = build(name)
    with torch.autocast('cpu', torch.bfloat16):
        out = net(torch.randn(2, 3, 64, 96))
    sum(map_.float().square().mean() for map_ in out).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('name', NAMES)
def test_gradients_have_the_layout_of_their_weights(name):
    """Else DDP warns in every run, and copies each step."""
    net = build(name)
    output_and_gradients(net, torch.randn(2, 3, 64, 96))
    for name, p in net.named_parameters():
        assert p.grad.stride() == p.stride(), name


@pytest.mark.parametrize('name', NAMES)
def test_recomputing_activations_changes_nothing(name):
    x = torch.randn(2, 3, 64, 96)
    expected = output_and_gradients(build(name), x)
    torch.testing.assert_close(output_and_gradients(build(name, with_cp=True), x), expected)


@newer
@pytest.mark.slow
@pytest.mark.parametrize('name', ATTENTIONS)
@pytest.mark.parametrize('block', [0, 1])
def test_is_one_graph(name, block):
    """torch.compile needs no graph break, and its graph of a map's size computes the same."""
    torch.manual_seed(0)
    layer = build_attention(name, 16, 2, stage=0, block=block, options={})
    torch.compiler.reset()  # or the layers before count as recompilations
    compiled = torch.compile(layer, backend='aot_eager', fullgraph=True, dynamic=False)
    x = torch.randn(2, 15, 9, 16)
    torch.testing.assert_close(compiled(x), layer(x))


@newer
@pytest.mark.slow
@pytest.mark.parametrize('name', ATTENTIONS)
def test_onnx_is_equal(name):
    net = build(name, out_indices=(3,)).eval()
    x = torch.randn(1, 3, 64, 96)
    file = io.BytesIO()
    torch.onnx.export(net, (x,), dynamo=True).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(x)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', ATTENTIONS)
def test_is_registered(name):
    layer = MODELS.build(dict(type=ATTENTIONS[name].__name__, embed_dims=16, num_heads=2))
    assert type(layer) is ATTENTIONS[name]


@pytest.mark.parametrize('name', ATTENTIONS)
def test_unknown_option_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"attention '{name}' takes the options .*; got topics"):
        build(dict(type=name, topics=3))


@pytest.mark.parametrize('name', ATTENTIONS)
@pytest.mark.parametrize(
    'option', [dict(num_regions=8), dict(topks=(1, 1, 1, 1)), dict(padding='masked'),
               dict(attn_backend='sdpa')]
)  # fmt: skip
def test_options_of_routing_are_refused(name, option):
    with pytest.raises(ValueError, match=f'{next(iter(option))} belong to the attention'):
        build(name, **option)


@pytest.mark.parametrize('name', ATTENTIONS)
@pytest.mark.parametrize(
    'options, message',
    [
        (dict(embed_dims=16, num_heads=3), 'num_heads'),
        (dict(embed_dims=16, num_heads=0), 'num_heads'),
        (dict(embed_dims=16.5, num_heads=2), 'embed_dims'),
        (dict(embed_dims=16, num_heads=2, qkv_bias=1), 'qkv_bias'),
    ],
)
def test_wrong_sizes_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        ATTENTIONS[name](**options)


def test_stages_may_differ():
    net = build(
        [ROUTING, dict(type='shifted_window', window_size=5), 'full', 'full'], attn_backend='sdpa'
    )
    kinds = [[type(block.attn).__name__ for block in stage] for stage in net.stages]
    assert kinds == [
        ['BiLevelRoutingAttention'] * 2,
        ['ShiftedWindowAttention'] * 2,
        ['GlobalAttention'] * 2,
        ['GlobalAttention'] * 2,
    ]
    assert net.stages[1][1].attn.window_size == 5
    assert net.stages[0][0].attn.attn_backend == 'sdpa'


@pytest.mark.parametrize(
    'attention, message',
    [
        ('swin', "must be one of .*'shifted_window'.*got 'swin'"),
        (dict(window_size=7), 'must be one of'),
        (['full'], 'one entry per stage, 4'),
        (dict(type=ROUTING, topk=3), 'num_regions, topks, padding and attn_backend of BiFormer'),
    ],
)
def test_wrong_attention_is_refused(attention, message):
    with pytest.raises(ValueError, match=message):
        build(attention)
