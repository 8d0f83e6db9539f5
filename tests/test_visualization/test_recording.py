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
from biformer_mm.models.layers.attention import FullAttention
from biformer_mm.ops import pad_to_regions
from biformer_mm.utils.errors import UsageError
from biformer_mm.visualization import BlockRouting, find_backbone, find_block, record_routing


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
