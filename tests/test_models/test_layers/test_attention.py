import math

import pytest
import torch
from mmengine.utils import digit_version

from biformer_mm.models import BiLevelRoutingAttention
from biformer_mm.models.layers.attention import FullAttention, attend_to_all, attend_to_regions
from biformer_mm.ops import auto_num_regions

BACKENDS = ('reference', 'sdpa', 'portable', 'auto')


def masked_loop(layer, x):
    """The layer with padding='masked', one token at a time.

    Regions are ceil-sized cells of the map; nothing exists off the map.
    """
    n, height, width, channels = x.shape
    s, m = layer.num_regions, layer.num_heads
    d = channels // m
    cell_h, cell_w = math.ceil(height / s), math.ceil(width / s)
    out = torch.zeros_like(x)
    for b in range(n):
        q, k, v = layer.qkv(x[b]).chunk(3, -1)
        cells = {}
        for y in range(height):
            for z in range(width):
                cells.setdefault((y // cell_h, z // cell_w), []).append((y, z))

        def mean(t, cell):
            return sum(t[at] for at in cells[cell]) / len(cells[cell])

        keys = {cell: mean(k, cell) for cell in cells}
        for cell, tokens in cells.items():
            query = mean(q, cell)
            routed = sorted(cells, key=lambda c: -(query @ keys[c]).item())
            routed = [at for c in routed[: layer.topk] for at in cells[c]]
            for at in tokens:
                for i in range(m):
                    head = slice(i * d, (i + 1) * d)
                    scores = torch.stack([layer.scale * q[at][head] @ k[to][head] for to in routed])
                    values = torch.stack([v[to][head] for to in routed])
                    out[b][at][head] = scores.softmax(0) @ values
        for y in range(height):
            for z in range(width):
                out[b, y, z] += layer.lce.bias
                for dy in range(-2, 3):
                    for dz in range(-2, 3):
                        if 0 <= y + dy < height and 0 <= z + dz < width:
                            out[b, y, z] += (
                                layer.lce.weight[:, 0, dy + 2, dz + 2] * v[y + dy, z + dz]
                            )
    return layer.proj(out)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    'height, width, num_regions, topk',
    [
        (8, 8, 4, 4),  # divisible
        (7, 9, 4, 3),
        (5, 9, 4, 16),  # cells without a token, fewer cells than k
        (3, 2, 4, 2),  # smaller than S
        (1, 1, 4, 16),
    ],
)
def test_masked_padding_equals_a_loop_over_cells(height, width, num_regions, topk, backend):
    torch.manual_seed(0)
    layer = BiLevelRoutingAttention(
        8, 2, num_regions, topk, 'masked', attn_backend=backend
    ).double()
    x = torch.randn(2, height, width, 8, dtype=torch.double)
    with torch.no_grad():
        expected = masked_loop(layer, x)
    out = layer(x.requires_grad_())
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('height, width', [(8, 12), (7, 13), (3, 5), (1, 1)])
def test_legacy_padding_is_zeros_before_the_projection(height, width):
    torch.manual_seed(0)
    layer = BiLevelRoutingAttention(8, 2, 4, 3).double()
    x = torch.randn(2, height, width, 8, dtype=torch.double)
    padded = x.new_zeros(2, -(-height // 4) * 4, -(-width // 4) * 4, 8)
    padded[:, :height, :width] = x
    torch.testing.assert_close(layer(x), layer(padded)[:, :height, :width])


def test_paddings_agree_where_nothing_is_padded():
    torch.manual_seed(0)
    legacy = BiLevelRoutingAttention(8, 2, 4, 3)
    masked = BiLevelRoutingAttention(8, 2, 4, 3, 'masked')
    masked.load_state_dict(legacy.state_dict())
    x = torch.randn(1, 8, 12, 8)
    assert torch.equal(legacy(x), masked(x))


def test_auto_regions_are_those_of_the_map():
    torch.manual_seed(0)
    auto = BiLevelRoutingAttention(8, 2, 'auto', 4)
    for height, width in ((8, 12), (20, 20), (1, 3)):
        num_regions = auto_num_regions(height, width, channels=8, topk=4)
        fixed = BiLevelRoutingAttention(8, 2, num_regions, 4)
        fixed.load_state_dict(auto.state_dict())
        x = torch.randn(2, height, width, 8)
        assert torch.equal(auto(x), fixed(x))


def test_full_attention_equals_a_loop_over_queries():
    torch.manual_seed(0)
    layer = FullAttention(16, num_heads=4).double()
    x = torch.randn(2, 3, 5, 16, dtype=torch.double)
    q, k, v = layer.qkv(x).flatten(1, 2).chunk(3, -1)
    out = torch.empty_like(q)
    for i in range(4):
        head = slice(4 * i, 4 * i + 4)
        for t in range(15):
            for n in range(2):
                weights = (k[n, :, head] @ q[n, t, head] / 2).softmax(0)
                out[n, t, head] = weights @ v[n, :, head]
    local = layer.lce(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), layer.proj(out.view_as(x) + local))


@pytest.mark.parametrize(
    'args, message',
    [
        (dict(topk=17), r'between 1 and .*\*\*2; got topk=17 with num_regions=4'),
        (dict(topk=0), 'got topk=0'),
        (dict(topk=0, num_regions='auto'), "got topk=0 with num_regions='auto'"),
        (dict(num_regions='8'), "an integer or 'auto'; got '8'"),
        (dict(num_heads=3), 'got embed_dims=8 and num_heads=3'),
        (dict(padding='zeros'), "one of .'legacy', 'masked'.; got 'zeros'"),
        (dict(attn_backend='cuda'), "one of 'auto', .*; got 'cuda'"),
    ],
)
def test_wrong_arguments(args, message):
    args = {**dict(embed_dims=8, num_heads=2, num_regions=4, topk=2), **args}
    with pytest.raises(ValueError, match=message):
        BiLevelRoutingAttention(**args)


@pytest.mark.parametrize('padding', ['legacy', 'masked'])
def test_trace_is_right_at_other_sizes(padding):
    torch.manual_seed(0)
    layer = BiLevelRoutingAttention(8, 2, 3, 4, padding).eval()
    with torch.no_grad():
        trace = torch.jit.trace(layer, torch.randn(1, 7, 8, 8))
        for shape in ((1, 10, 11, 8), (2, 4, 5, 8)):
            x = torch.randn(shape)
            torch.testing.assert_close(trace(x), layer(x))


@pytest.mark.skipif(digit_version(torch.__version__) < (2, 6), reason='PyTorch before 2.6')
def test_export_holds_pytorchs_ops_alone():
    layer, x = BiLevelRoutingAttention(8, 2, 3, 4).eval(), torch.randn(2, 7, 8, 8)
    batch = torch.export.Dim('batch', min=1, max=64)
    exported = torch.export.export(layer, (x,), dynamic_shapes={'x': {0: batch}})
    targets = [str(node.target) for node in exported.graph.nodes]
    assert not any('biformer_mm' in target for target in targets)
    for n in (1, 3):
        x = torch.randn(n, 7, 8, 8)
        torch.testing.assert_close(exported.module()(x), layer(x))


@pytest.mark.parametrize(
    'make',
    [lambda: BiLevelRoutingAttention(64, 2, num_regions=4, topk=4), lambda: FullAttention(64)],
)
def test_large_activations_survive_fp16_autocast(make):
    """Queries and keys whose products and region affinities fp16 cannot hold:
    outputs and gradients stay finite."""
    if digit_version(torch.__version__) < (2, 3):
        pytest.skip('PyTorch before 2.3 has no fp16 autocast on the CPU')
    torch.manual_seed(0)
    layer = make()
    with torch.no_grad():
        layer.qkv.weight[:128] *= 300  # queries and keys, not values
    x = torch.randn(2, 16, 16, 64, requires_grad=True)
    query, key, _ = layer.qkv(x).chunk(3, -1)
    assert (query * key).sum(-1).abs().max() > 2**16
    with torch.autocast('cpu', dtype=torch.float16):
        out = layer(x)
        out.float().square().mean().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('num_regions', [3, 'auto'])
@pytest.mark.parametrize('padding', ['legacy', 'masked'])
def test_fx_records_one_call_that_takes_any_size(num_regions, padding):
    torch.manual_seed(0)
    layer = BiLevelRoutingAttention(8, 2, num_regions, 2, padding).double()
    graph = torch.fx.symbolic_trace(layer)
    calls = [node for node in graph.graph.nodes if node.target is attend_to_regions]
    assert len(calls) == 1
    for size in (6, 9), (7, 8), (20, 16):
        assert_fx_equals(graph, layer, torch.randn(2, *size, 8).double())


def test_fx_records_one_call_of_full_attention():
    layer = FullAttention(8, 2).double()
    graph = torch.fx.symbolic_trace(layer)
    assert sum(node.target is attend_to_all for node in graph.graph.nodes) == 1
    for size in (3, 4), (5, 2):
        assert_fx_equals(graph, layer, torch.randn(2, *size, 8).double())


def assert_fx_equals(graph, layer, x):
    out, expected = graph(x), layer(x)
    torch.testing.assert_close(out, expected)
    for mine, own in zip(
        torch.autograd.grad(out.square().sum(), graph.parameters()),
        torch.autograd.grad(expected.square().sum(), layer.parameters()),
    ):
        torch.testing.assert_close(mine, own)
