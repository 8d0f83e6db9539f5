"""Every backend against a loop over queries, in fp64."""

import pytest
import torch
from region_cases import SHAPES, cut, loop, make_inputs
from tolerances import relative_rms, tolerances

from biformer_mm.ops import merge, region_attention
from biformer_mm.ops.backends import sdpa


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


def test_an_empty_batch_gives_an_empty_map_and_gradients(backend, device):
    shape = (0, 2, 2, 2, 2, 4, 2, 2)
    qkv, index, options = make_inputs(shape, device)
    qkv = [x.requires_grad_() for x in qkv]
    out = region_attention(*qkv, index, **options, backend=backend)
    assert out.shape == shape[:6] and out.dtype == qkv[0].dtype
    for x, grad in zip(qkv, torch.autograd.grad(out.sum(), qkv)):
        assert grad.shape == x.shape
