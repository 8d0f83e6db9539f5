"""What is recorded of a block, against the golden files and a computation over
all pairs of tokens."""

import math

import golden
import numpy as np
import pytest
import torch
from torch import nn

from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.models import BiFormer, BiLevelRoutingAttention
from biformer_mm.models.layers import ATTENTIONS
from biformer_mm.models.layers.attention import FullAttention
from biformer_mm.models.layers.basic import DepthwiseConv
from biformer_mm.ops import pad_to_regions
from biformer_mm.utils.errors import UsageError
from biformer_mm.visualization import BlockRouting, find_backbone, find_block, record_routing
from biformer_mm.visualization.recording import BlockAttention


def record(attn, x, stage=1):
    """A layer's routing on the map x, (1, H, W, C), as if of ``stage``."""
    stride = 2 ** (stage + 1)
    size = x.shape[1] * stride, x.shape[2] * stride
    with torch.no_grad():
        return BlockRouting(attn, x, stage, 1, 1, size)


def all_pairs(attn, x, index):
    """Attention between all tokens of the padded map, (m, L, L), in fp64, and
    each token's region, (L,): a softmax over what the index allows."""
    s = getattr(attn, 'num_regions', 1)
    padded = pad_to_regions(x, s)
    height, width, channels = padded.shape[1:]
    with torch.no_grad():
        qkv = attn.double().qkv(padded.double()).reshape(-1, 3, channels)
    query, key = (qkv[:, i].unflatten(-1, (attn.num_heads, -1)).transpose(0, 1) for i in (0, 1))
    rows = torch.arange(height).div(height // s, rounding_mode='floor')
    cols = torch.arange(width).div(width // s, rounding_mode='floor')
    region = (rows[:, None] * s + cols).flatten()
    allowed = torch.zeros(s * s, s * s, dtype=torch.bool)
    for i, routed in enumerate(index):
        allowed[i, torch.from_numpy(routed)] = True
    seen = allowed[region][:, region]
    on_map = torch.zeros(height, width, dtype=torch.bool)
    on_map[: x.shape[1], : x.shape[2]] = True
    if getattr(attn, 'padding', None) == 'masked':
        seen &= on_map.flatten()
    scores = query @ key.transpose(1, 2) * attn.scale
    scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1).numpy(), region.numpy(), on_map.numpy()


LAYERS = {
    'divisible': (dict(num_regions=4, topk=3), (12, 16)),
    'legacy': (dict(num_regions=4, topk=3), (10, 13)),
    'masked': (dict(num_regions=4, topk=3, padding='masked'), (10, 13)),
    # Its last row and column of regions lie in the padding.
    'empty regions': (dict(num_regions=5, topk=4, padding='masked'), (8, 12)),
    'full': (None, (5, 7)),
}


@pytest.fixture(params=LAYERS)
def recorded(request):
    """A layer, its input and what is recorded of it."""
    torch.manual_seed(0)
    options, size = LAYERS[request.param]
    attn = BiLevelRoutingAttention(32, 2, **options) if options else FullAttention(32, 2)
    nn.init.normal_(attn.qkv.weight, std=0.4)  # attention far from even
    x = torch.randn(1, *size, 32)
    return attn, x, record(attn, x)


@pytest.mark.parametrize('name', ['bra_divisible', 'bra_padded', 'bra_many_regions'])
def test_index_is_golden(name):
    arrays = golden.load(name)
    state = convert_state_dict(golden.section(arrays, 'state'))
    attn = BiLevelRoutingAttention(
        len(state['proj.bias']), *(arrays[k].item() for k in ('num_heads', 'n_win', 'topk'))
    )
    attn.load_state_dict(state)
    for x, index in zip(arrays['x'], arrays['r_idx']):
        golden.assert_same_sets(torch.from_numpy(record(attn, x[None]).index), index)


def test_heat_maps_are_the_attention_between_all_tokens(recorded):
    attn, x, routing = recorded
    height, width = x.shape[1:3]
    expected, _, on_map = all_pairs(attn, x, routing.index)
    expected = expected.reshape(-1, *on_map.shape, *on_map.shape)
    for row in range(height):
        for col in range(width):
            heat = routing.heat_map(row, col)
            assert heat.shape == (routing.num_heads, height, width)
            np.testing.assert_allclose(heat, expected[:, row, col, :height, :width], atol=1e-5)


def test_attention_sums_to_one_and_is_zero_outside_the_routed_regions(recorded):
    attn, x, routing = recorded
    _, region, on_map = all_pairs(attn, x, routing.index)
    region = region.reshape(on_map.shape)[: x.shape[1], : x.shape[2]]
    padding_counts = getattr(attn, 'padding', None) == 'legacy' and (not on_map.all())
    for row in range(x.shape[1]):
        for col in range(x.shape[2]):
            heat = routing.heat_map(row, col)
            routed = routing.index[region[row, col]]
            assert not heat[:, ~np.isin(region, routed)].any()
            if not padding_counts:
                np.testing.assert_allclose(heat.sum((1, 2)), 1, atol=1e-5)
    sums = routing.weights.sum(-1)
    assert np.all(np.isclose(sums, 1, atol=1e-5) | (sums == 0))


def test_strength_is_the_mean_over_heads_and_tokens(recorded):
    attn, x, routing = recorded
    weights, region, on_map = all_pairs(attn, x, routing.index)
    queries = on_map.flatten()
    for i, routed in enumerate(routing.index):
        rows = weights[:, queries & (region == i)]
        for j, target in enumerate(routed):
            expected = rows[:, :, region == target].sum(-1).mean() if rows.size else 0
            assert abs(routing.strength[i, j] - expected) < 1e-5


def test_regions_tile_the_image(recorded):
    _, x, routing = recorded
    height, width = routing.image_size
    covered = np.zeros((height, width), int)
    for i in range(routing.num_regions**2):
        left, top, right, bottom = routing.region_box(i)
        covered[top:bottom, left:right] += 1
        for y in range(top, bottom, routing.stride):
            for x in range(left, right, routing.stride):
                token = routing.token_at(x, y)
                assert token == (y // 4, x // 4)
                assert routing.region_of(*token) == i
    assert (covered == 1).all()


def test_incoming_regions_are_those_that_route_there(recorded):
    routing = recorded[2]
    for i in range(routing.num_regions**2):
        expected = [j for j, row in enumerate(routing.index) if i in row]
        assert routing.incoming(i).tolist() == expected


def small_backbone(**options):
    backbone = BiFormer(golden.small_arch()[0], num_regions=(3, 3, 4, 3), **options)
    return backbone.eval()


def test_recording_visits_each_block_and_changes_nothing():
    torch.manual_seed(0)
    backbone = small_backbone().train()
    image = torch.randn(1, 3, 70, 100)
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    recorded = list(record_routing(backbone, image))
    assert [(r.stage, r.block, r.num_blocks) for r in recorded] == [
        (stage + 1, block + 1, len(blocks))
        for stage, blocks in enumerate(backbone.stages)
        for block in range(len(blocks))
    ]
    assert backbone.training
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    assert not any(m._forward_pre_hooks for m in backbone.modules())


def test_modes_and_random_numbers_are_left_as_they_were():
    backbone = small_backbone().train()
    backbone.stages[0].eval()  # frozen by hand
    modes = [module.training for module in backbone.modules()]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(record_routing(backbone, torch.ones(1, 3, 64, 64)))
    assert [module.training for module in backbone.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (np.random.get_state()[1] == generators[1]).all()


def test_one_block_is_recorded_of_the_map_that_reaches_it():
    torch.manual_seed(0)
    backbone = small_backbone()
    image = torch.randn(1, 3, 70, 100)
    (routing,) = record_routing(backbone, image, stage=3, block=-1)
    *before, last = backbone.stages[2]
    assert (routing.stage, routing.block) == (3, len(before) + 1)
    assert (routing.stride, routing.image_size) == (16, (70, 100))
    with torch.no_grad():
        x = image
        for stage in range(2):
            x = backbone._run_stage(stage, x)
        x = backbone.downsamples[1](x).permute(0, 2, 3, 1)
        for block in before:
            x = block(x)
        if last.pos_conv is not None:
            x = x + last.pos_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        expected = record(last.attn, last.norm1(x), stage=3)
    assert (routing.index == expected.index).all()
    np.testing.assert_allclose(routing.weights, expected.weights, atol=1e-6)


def test_full_attention_has_no_topk():
    *_, last = record_routing(small_backbone(), torch.randn(1, 3, 64, 64))
    assert last.topk is None and last.index.tolist() == [[0]]
    assert last.heat_map(0, 0).shape == (8, 2, 2)


@pytest.mark.parametrize(
    'stage, block, message',
    [
        (5, 1, 'stage must be between 1 and 4; got 5'),
        (0, 1, 'stage must be between 1 and 4; got 0'),
        (3, 0, 'block of stage 3 must be between 1 and .*; got 0'),
        (3, 99, 'block of stage 3 must be between 1 and .*; got 99'),
        (3, -99, 'block of stage 3 must be between 1 and .*; got -99'),
    ],
)
def test_other_blocks_are_refused(stage, block, message):
    with pytest.raises(UsageError, match=message):
        find_block(small_backbone(), stage, block)


def test_other_models_and_batches_are_refused():
    with pytest.raises(UsageError, match='Linear has 0'):
        find_backbone(nn.Linear(1, 1))
    with pytest.raises(UsageError, match='ModuleList has 2'):
        find_backbone(nn.ModuleList([small_backbone(), small_backbone()]))
    with pytest.raises(ValueError, match='one image'):
        next(record_routing(small_backbone(), torch.randn(2, 3, 64, 64)))


WITHOUT_REGIONS = {
    'full': {},
    'sliding_window': dict(window_size=3),
    'shifted_window': dict(window_size=4, shift=2),
    'spatially_separable': dict(window_size=4),
    'sequential_axial': {},
    'criss_cross': {},
    'cross_shaped_window': dict(stripe=2),
    'block_grid': dict(window_size=4, grid=True),
    'quadtree': dict(topk=2, num_levels=2),
}


@pytest.fixture(params=WITHOUT_REGIONS)
def without_regions(request):
    """A layer, its input and what is recorded of it."""
    torch.manual_seed(0)
    layer = ATTENTIONS[request.param](32, 4, **WITHOUT_REGIONS[request.param])
    nn.init.normal_(layer.qkv.weight, std=0.4)
    for module in layer.modules():
        if isinstance(module, DepthwiseConv):  # of CSWin, which is not attention
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    x = torch.randn(1, 10, 13, 32)
    with torch.no_grad():
        return layer, x, BlockAttention(layer, x, 1, 1, 1, (40, 52))


def test_output_is_the_sum_of_the_values_by_the_heat_maps(without_regions):
    layer, x, routing = without_regions
    with torch.no_grad():
        qkv = layer.qkv(x)
        expected = layer.attend(qkv)[0].unflatten(-1, (4, 8)).numpy()  # (H, W, m, d)
    value = qkv[0, :, :, 64:].unflatten(-1, (4, 8)).double().numpy()
    for row, col in [(0, 0), (9, 12), (4, 7), (8, 2)]:
        heat = routing.heat_map(row, col).astype(np.float64)
        found = np.einsum('mhw,hwmd->md', heat, value)
        np.testing.assert_allclose(found, expected[row, col], atol=1e-4)
        np.testing.assert_allclose(heat.sum((1, 2)), 1, atol=1e-5)


def test_attention_without_regions_is_of_one_region(without_regions):
    routing = without_regions[2]
    assert (routing.topk, routing.num_regions, routing.region_size) == (None, 1, (10, 13))
    assert routing.weights.shape == (1, 4, 130, 130)
    np.testing.assert_allclose(routing.strength, [[1]], rtol=1e-5)
    assert routing.region_box(0) == (0, 0, 52, 40)


def test_full_heat_map_is_the_softmax_of_all_pairs():
    torch.manual_seed(0)
    layer = ATTENTIONS['full'](32, 2)
    nn.init.normal_(layer.qkv.weight, std=0.4)
    x = torch.randn(1, 5, 7, 32)
    with torch.no_grad():
        heat = BlockAttention(layer, x, 1, 1, 1, (20, 28)).heat_map(2, 3)
        qkv = layer.double().qkv(x.double())[0].flatten(0, 1)
    query, key, _ = (part.unflatten(-1, (2, 16)) for part in qkv.chunk(3, dim=-1))
    scores = torch.einsum('md,tmd->mt', query[2 * 7 + 3], key) / 4
    np.testing.assert_allclose(heat, scores.softmax(-1).reshape(2, 5, 7), atol=1e-5)


def test_convolutions_of_values_are_not_attention():
    torch.manual_seed(0)
    layer = ATTENTIONS['cross_shaped_window'](32, 2, stripe=1)
    with torch.no_grad():
        heat = BlockAttention(layer, torch.randn(1, 6, 8, 32), 1, 1, 1, (24, 32)).heat_map(2, 3)
    np.testing.assert_allclose(heat.sum((1, 2)), 1, atol=1e-5)
    assert np.count_nonzero(heat[0].sum(1)) == np.count_nonzero(heat[1].sum(0)) == 1
    assert layer.lepe[0].weight.any()


def small_stl(*attentions):
    """A network of the Swin-T layout with one attention per stage."""
    return BiFormer(
        dict(
            base='stl',
            embed_dims=(16, 16, 16, 16),
            depths=(1, 2, 1, 1),
            head_dim=8,
            attention=attentions,
        )
    )


def test_mixed_networks_are_recorded_stage_by_stage():
    backbone = small_stl(
        'full', dict(type='shifted_window', window_size=4), 'bi_level_routing', 'quadtree'
    )
    recorded = list(record_routing(backbone, torch.randn(1, 3, 64, 96)))
    assert [(r.stage, r.attention, r.topk) for r in recorded] == [
        (1, 'full', None),
        (2, 'shifted window', None),
        (2, 'shifted window', None),
        (3, 'bi-level routing', 16),
        (4, 'quadtree', None),
    ]


@pytest.mark.parametrize('name, block', [('deformable', 1), ('spatially_separable', 2)])
def test_attention_to_other_points_than_tokens_is_refused(name, block):
    backbone = small_stl('full', name, 'full', 'full')
    kind = name.replace('_', ' ')
    message = f'block {block} of stage 2 has {kind} attention to other points'
    with pytest.raises(UsageError, match=message):
        next(record_routing(backbone, torch.randn(1, 3, 64, 64)))
    assert next(record_routing(backbone, torch.randn(1, 3, 64, 64), stage=3)).attention == 'full'
