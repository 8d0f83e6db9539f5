"""What else the specification promises; test_region_attention.py has the loop over queries."""

import torch
from region_cases import SHAPES, make_inputs

from biformer_mm.ops import merge, region_attention
from biformer_mm.ops.backends.reference import region_attention_with_weights


def test_reference_computes_in_fp32_under_autocast(device):
    qkv, index, options = make_inputs(SHAPES[0], device, torch.float32)
    expected = region_attention(*qkv, index, **options, backend='reference')
    with torch.autocast(device, dtype=torch.bfloat16):
        out = region_attention(*qkv, index, **options, backend='reference')
    assert torch.equal(out, expected)


def test_weights_are_a_distribution_over_the_routed_tokens():
    shape, valid_size = (1, 3, 2, 3, 5, 4, 1, 2), (7, 8)
    qkv, index, options = make_inputs(shape)
    out, weights = region_attention_with_weights(*qkv, index, **options, valid_size=valid_size)
    assert weights.shape == (1, 6, 1, 15, 30)
    on_map = merge(torch.ones_like(qkv[0][..., :1]))
    on_map[:, 7:], on_map[:, :, 8:] = 0, 0
    on_map = on_map.unflatten(2, (2, 5)).unflatten(1, (3, 3)).transpose(2, 3)
    on_map = on_map.flatten(3).flatten(1, 2)[0].bool()  # (regions, tokens)
    torch.testing.assert_close(weights.sum(-1)[0, :, 0], on_map.to(weights.dtype))
    for region in range(6):
        off = ~on_map[index[0, region]].flatten()
        assert not weights[0, region, :, :, off].any()
    # The output is what the weights say.
    value = qkv[2].flatten(3, 4).flatten(1, 2)[0]  # (regions, tokens, C)
    for region in range(6):
        expected = weights[0, region, 0] @ value[index[0, region]].flatten(0, 1)
        torch.testing.assert_close(out.flatten(3, 4).flatten(1, 2)[0, region], expected)
