"""Every backend against a loop over queries, in fp64."""

import math

import pytest
import torch
from tolerances import relative_rms, tolerances

from biformer_mm.ops import merge, region_attention
from biformer_mm.ops.backends import sdpa
from biformer_mm.ops.backends.reference import region_attention_with_weights

# N, Sh, Sw, h, w, C, heads, k
SHAPES = [
    (2, 2, 3, 2, 2, 8, 2, 3),
    (1, 4, 4, 1, 3, 6, 3, 16),
    (1, 3, 2, 3, 5, 4, 1, 1),
    (2, 1, 1, 4, 3, 8, 4, 1),
    (1, 7, 7, 1, 1, 16, 2, 5),
]


def make_inputs(shape, device='cpu', dtype=torch.float64):
    n, sh, sw, h, w, c, num_heads, topk = shape
    generator = torch.Generator().manual_seed(0)
    qkv = [
        torch.randn(n, sh, sw, h, w, c, generator=generator, dtype=dtype).to(device)
        for _ in range(3)
    ]
    index = torch.rand(n, sh * sw, sh * sw, generator=generator).topk(topk).indices
    return qkv, index.to(device), dict(num_heads=num_heads, scale=0.3)


def cut(x, shape):
    """A map as regions, not necessarily as many down as across."""
    sh, sw, h, w = shape[1:5]
    return x.unflatten(2, (sw, w)).unflatten(1, (sh, h)).transpose(2, 3)


def loop(query, key, value, region_index, num_heads, scale, valid_size=None, attend_padding=False):
    """One query at a time, from coordinates on the map; on the CPU."""
    query, key, value, region_index = (x.cpu() for x in (query, key, value, region_index))
    n, sh, sw, h, w, c = query.shape
    height, width = valid_size or (sh * h, sw * w)
    d = c // num_heads
    out = torch.zeros_like(query)
    for b in range(n):
        for y in range(height):
            for x in range(width):
                region = (y // h) * sw + x // w
                keys = [
                    (j // sw, j % sw, r, s)
                    for j in region_index[b, region].tolist()
                    for r in range(h)
                    for s in range(w)
                    if attend_padding or (j // sw) * h + r < height and (j % sw) * w + s < width
                ]
                at = (b, y // h, x // w, y % h, x % w)
                for m in range(num_heads):
                    head = slice(m * d, (m + 1) * d)
                    weights = [
                        math.exp(scale * (query[at][head] @ key[(b, *k)][head]).item())
                        for k in keys
                    ]
                    for weight, k in zip(weights, keys):
                        out[at][head] += weight / sum(weights) * value[(b, *k)][head]
    return out


@pytest.mark.parametrize('shape', SHAPES)
def test_equals_the_loop(shape, backend, device):
    qkv, index, options = make_inputs(shape, device)
    out = region_attention(*qkv, index, **options, backend=backend)
    torch.testing.assert_close(out.cpu(), loop(*qkv, index, **options))


PADDED = [
    (SHAPES[0], (3, 5)),
    (SHAPES[1], (3, 12)),
    (SHAPES[2], (7, 2)),  # the right-hand regions are empty
    (SHAPES[3], (3, 3)),
    (SHAPES[4], (1, 1)),
]


@pytest.mark.parametrize('shape, valid_size', PADDED)
def test_padding_does_not_exist(shape, valid_size, backend, device):
    qkv, index, options = make_inputs(shape, device)
    poisoned = []
    for x in qkv:
        x = merge(x)
        x[:, valid_size[0] :] = float('nan')
        x[:, :, valid_size[1] :] = float('inf')
        poisoned.append(cut(x, shape).requires_grad_())
    expected = loop(*qkv, index, **options, valid_size=valid_size)
    out = region_attention(*poisoned, index, **options, valid_size=valid_size, backend=backend)
    torch.testing.assert_close(out.cpu(), expected)
    grads = torch.autograd.grad(out.square().sum(), poisoned)
    for grad in grads:
        assert grad.isfinite().all()
        grad = merge(grad)
        assert not grad[:, valid_size[0] :].any()
        assert not grad[:, :, valid_size[1] :].any()


def test_takes_any_integers_and_a_region_twice(backend, device):
    qkv, index, options = make_inputs(SHAPES[0], device)
    index[:, :, 1] = index[:, :, 0]
    expected = loop(*qkv, index, **options)
    for dtype in (torch.int64, torch.int32):
        out = region_attention(*qkv, index.to(dtype), **options, backend=backend)
        torch.testing.assert_close(out.cpu(), expected)


@pytest.mark.parametrize('shape, valid_size', PADDED)
def test_padding_may_be_keys_but_no_queries(shape, valid_size, backend, device):
    qkv, index, options = make_inputs(shape, device)
    options.update(valid_size=valid_size, attend_padding=True)
    expected = loop(*qkv, index, **options)
    padded = merge(torch.ones_like(qkv[0]))
    padded[:, : valid_size[0], : valid_size[1]] = 0
    padded = cut(padded, shape).bool()
    qkv[0] = qkv[0].masked_fill(padded, float('nan'))
    qkv = [x.requires_grad_() for x in qkv]
    out = region_attention(*qkv, index, **options, backend=backend)
    torch.testing.assert_close(out.cpu(), expected)
    grads = torch.autograd.grad(out.square().sum(), qkv)
    assert all(grad.isfinite().all() for grad in grads)
    assert not grads[0][padded].any()


@pytest.mark.parametrize(
    'padding',
    [
        dict(valid_size=None),
        dict(valid_size=(3, 4)),
        dict(valid_size=(3, 3), attend_padding=True),
        dict(valid_size=(1, 2)),  # regions without a token
    ],
)
def test_gradients(backend, padding, device):
    qkv, index, options = make_inputs((2, 2, 2, 2, 2, 4, 2, 2), device)
    assert torch.autograd.gradcheck(
        lambda *qkv: region_attention(*qkv, index, **options, **padding, backend=backend),
        [x.requires_grad_() for x in qkv],
    )


# In the second, a region's tokens lie one after the other in any layout.
@pytest.mark.parametrize('shape', [(2, 3, 3, 2, 2, 8, 2, 4), (2, 3, 1, 2, 2, 8, 2, 2)])
@pytest.mark.parametrize('make', ['map', 'fused projection', 'NCHW'])
def test_takes_any_strides(backend, make, shape, device):
    qkv, index, options = make_inputs(shape, device)
    expected = region_attention(*qkv, index, **options, backend=backend)
    if make == 'map':
        qkv = [cut(merge(x).contiguous(), shape) for x in qkv]
    elif make == 'fused projection':
        qkv = torch.cat(qkv, dim=-1).chunk(3, dim=-1)
    else:
        qkv = [
            cut(merge(x).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), shape) for x in qkv
        ]
    out = region_attention(*qkv, index, **options, backend=backend)
    torch.testing.assert_close(out, expected)


def test_fp16_does_not_overflow(backend, device):
    """Scores far beyond fp16's range still give a softmax."""
    qkv, index, options = make_inputs(SHAPES[0], device)
    query, key, value = (x.to(torch.float16) for x in qkv)
    query, key = 300 * query, 300 * key
    scores = query.double().flatten(0, -2) @ key.double().flatten(0, -2).T
    assert options['scale'] * scores.abs().max() > 2**16
    if backend == 'sdpa' and sdpa.unsupported_reason(query, options['num_heads']):
        backend = 'auto'
    out = region_attention(query, key, value, index, **options, backend=backend)
    expected = region_attention(
        *[x.double() for x in (query, key, value)], index, **options, backend='reference'
    )
    error = relative_rms(out, expected)
    assert error < tolerances(backend, device, torch.float16)[0]


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


def test_an_empty_batch_gives_an_empty_map_and_gradients(backend, device):
    shape = (0, 2, 2, 2, 2, 4, 2, 2)
    qkv, index, options = make_inputs(shape, device)
    qkv = [x.requires_grad_() for x in qkv]
    out = region_attention(*qkv, index, **options, backend=backend)
    assert out.shape == shape[:6] and out.dtype == qkv[0].dtype
    for x, grad in zip(qkv, torch.autograd.grad(out.sum(), qkv)):
        assert grad.shape == x.shape
