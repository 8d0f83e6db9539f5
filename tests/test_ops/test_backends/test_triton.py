"""The Triton kernels against the reference in fp64: natively on a GPU, through
Triton's interpreter elsewhere."""

import random

import pytest
import tolerances
import torch
from tolerances import attend

from biformer_mm.ops import merge, partition, region_attention

pytest.importorskip('triton', minversion='3.0')
from biformer_mm.ops.backends import triton, triton_config  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CORNERS = [
    # N, Sh, Sw, h, w, heads, head dim, k, valid size, attend padding
    (1, 2, 3, 7, 7, 2, 32, 1, None, False),  # tails of 49 tokens
    (1, 1, 2, 9, 15, 1, 32, 2, None, False),  # 135 tokens, several tiles
    pytest.param((1, 1, 2, 13, 21, 1, 32, 2, None, False), marks=pytest.mark.slow),  # 273
    (1, 5, 5, 2, 2, 1, 32, 16, None, False),
    (1, 4, 4, 1, 2, 2, 16, 16, None, False),
    (1, 1, 1, 7, 7, 2, 64, 1, None, False),  # full attention
    (1, 3, 3, 2, 3, 1, 24, 2, None, False),  # head dim between powers of two
    (1, 4, 4, 2, 2, 1, 16, 3, (7, 5), False),
    (1, 4, 4, 2, 2, 1, 16, 16, (3, 8), False),  # regions without a token
    (1, 4, 4, 1, 1, 2, 16, 2, (1, 1), False),
    (1, 4, 4, 2, 2, 1, 16, 3, (7, 5), True),
    (2, 3, 3, 5, 6, 1, 32, 2, (11, 13), True),
    (1, 4, 4, 2, 2, 1, 16, 16, (3, 8), True),
]


def random_case(seed):
    draw = random.Random(seed)
    sh, sw = draw.choice([(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2)])
    h, w = draw.randint(1, 6), draw.randint(1, 6)
    valid = draw.random() < 0.4
    n, heads = draw.choice([(1, 1), (1, 1), (1, 2), (2, 1)])
    return (
        n,
        sh,
        sw,
        h,
        w,
        heads,
        draw.choice([16, 32, 64]),
        draw.randint(1, sh * sw),
        (draw.randint(1, sh * h), draw.randint(1, sw * w)) if valid else None,
        draw.random() < 0.5,
    )


def make_inputs(case, dtype=torch.float32):
    return tolerances.make_inputs(case, DEVICE, dtype)


@pytest.fixture(params=['regions', 'map'])
def way(request, monkeypatch):
    """What queries see, whatever would be chosen."""
    monkeypatch.setattr(triton, 'sees_map', lambda *_: request.param == 'map')
    return request.param


@pytest.mark.parametrize('case', CORNERS)
@pytest.mark.parametrize('dtype', triton.DTYPES)
def test_corners(case, dtype, way):
    if dtype == torch.bfloat16 and DEVICE == 'cpu':
        pytest.skip("Triton's interpreter has no bf16 products")
    tolerances.assert_within('triton', case, DEVICE, dtype)


# 800x1333 with 16 x 16 regions, in few: tokens and k, the padding's share.
PADDED = [
    (1, 2, 2, 13, 21, 1, 32, 1, (18, 40)),
    (1, 3, 3, 7, 11, 1, 32, 4, (13, 24)),
    (1, 5, 5, 4, 6, 1, 32, 16, (14, 25)),
]


@pytest.mark.first_tier(2)
@pytest.mark.parametrize('attend_padding', [False, True])
@pytest.mark.parametrize('case', PADDED)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_padding_in_half_precision(case, dtype, attend_padding):
    if dtype == torch.bfloat16 and DEVICE == 'cpu':
        pytest.skip("Triton's interpreter has no bf16 products")
    tolerances.assert_within('triton', (*case, attend_padding), DEVICE, dtype)


@pytest.fixture
def tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('high')
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.slow
@pytest.mark.parametrize('attend_padding', [False, True])
@pytest.mark.parametrize(
    'case', [*PADDED, (1, 2, 2, 3, 5, 1, 64, 2, (5, 9)), (1, 2, 2, 3, 5, 1, 96, 2, (5, 9))]
)
def test_tf32_tiles(case, attend_padding, tf32):
    """The interpreter's products are those of fp32, the tiles are tf32's."""
    assert triton_config.precision_of(torch.float32) == 'tf32'
    qkv, index, options = make_inputs((*case, attend_padding))
    found = attend(qkv, index, options, 'triton')
    exact = attend(qkv, index, options, 'reference', torch.float64)
    # Tf32 has as many bits as fp16.
    like = torch.float32 if DEVICE == 'cpu' else torch.float16
    of_output, of_gradients = tolerances.tolerances('triton', DEVICE, like)
    for name, value in found.items():
        error = tolerances.relative_rms(value, exact[name])
        assert error <= (of_output if name == 'o' else of_gradients), name


@pytest.mark.slow
def test_grid_is_of_one_dimension(monkeypatch, way):
    """65535 is the most that a grid's y can have."""
    grids = []

    class Kernel:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *args, **kwargs: None

    for name in triton_config.KERNELS:
        monkeypatch.setattr(triton.kernels, name, Kernel())
        monkeypatch.setattr(triton.triton_map, f'map_{name}', Kernel())
    monkeypatch.setattr(triton.triton_map, 'map_bias', Kernel())
    n, heads, regions = 2731, 24, 4
    qkv = torch.zeros(1, 2, 2, 2, 3, heads * 16, device=DEVICE)
    qkv = [qkv.expand(n, *qkv.shape[1:]).requires_grad_() for _ in range(3)]
    index = torch.zeros(n, regions, 1, dtype=torch.long, device=DEVICE)
    out = region_attention(*qkv, index, num_heads=heads, scale=1.0, backend='triton')
    out.sum().backward()
    of_attention = [(n * heads * (1 if way == 'map' else regions),)] * 3
    of_bias = [(n * regions,)] * 3 if way == 'map' else []
    assert sorted(grids) == sorted(of_attention + of_bias)


def test_regions_routed_to_twice(way):
    """Or more often count as often, as in the reference."""
    generator = torch.Generator().manual_seed(0)
    for valid_size in (None, (7, 9)):
        qkv, index, options = make_inputs((2, 3, 3, 3, 4, 1, 32, 4, valid_size, False))
        index = torch.randint(3, index.shape, generator=generator).to(DEVICE)
        found = attend(qkv, index, options, 'triton')
        exact = attend(qkv, index, options, 'reference', torch.float64)
        for name, value in found.items():
            error = tolerances.relative_rms(value, exact[name])
            assert error <= 1e-5, name


@pytest.mark.first_tier(1)
def test_equal_bit_for_bit(way):
    """Twice the same, also where many regions read one."""
    qkv, index, options = make_inputs((2, 4, 4, 2, 3, 2, 16, 5, None, False))
    first, second = (attend(qkv, index, options, 'triton') for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_output_lies_in_memory_like_the_query(way):
    qkv, index, options = make_inputs((1, 2, 2, 2, 3, 2, 16, 2, None, False))
    out = region_attention(*qkv, index, **options, backend='triton')
    assert merge(out).is_contiguous()


@pytest.mark.parametrize('attend_padding', [False, True])
def test_padding_is_no_query(attend_padding, way):
    """Nor, unless it is attended to, a key: what it holds is not used."""
    qkv, index, options = make_inputs((1, 3, 3, 2, 2, 1, 16, 4, (4, 5), attend_padding))
    clean = attend(qkv, index, options, 'triton')
    off_map = merge(torch.ones_like(qkv[0])).bool()
    off_map[:, :4, :5] = False
    off_map = partition(off_map, 3)
    nan, (query, key, value) = float('nan'), qkv
    query = query.masked_fill(off_map, nan)
    if not attend_padding:
        key, value = (x.masked_fill(off_map, nan) for x in (key, value))
    found = attend((query, key, value), index, options, 'triton')
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, clean[name], msg=name)
        is_key = attend_padding and name in ('dk', 'dv')
        assert tensor[off_map].any() == is_key, name


@pytest.mark.skipif(not hasattr(torch.library, 'opcheck'), reason='PyTorch before 2.4')
@pytest.mark.parametrize('valid_size', [(0, 0), (3, 4)])
def test_opcheck(valid_size):
    qkv, index, options = make_inputs((1, 2, 2, 2, 2, 1, 16, 2, None, False))
    qkv = [x.detach().requires_grad_() for x in qkv]
    torch.library.opcheck(
        torch.ops.biformer_mm.region_attention,
        (*qkv, index.contiguous(), 1, 0.3, *valid_size, False),
    )


def test_says_which_gpus_it_was_checked_for(monkeypatch):
    monkeypatch.setattr(triton, 'interpreted', lambda: False)
    device = torch.device('cuda')
    for capability, reason in (((7, 5), '8.0; this one has 7.5'), ((8, 0), None), ((9, 0), None)):
        monkeypatch.setattr(
            torch.cuda, 'get_device_capability', lambda device, found=capability: found
        )
        found = triton.unsuitable(device)
        assert found is None if reason is None else reason in found
    monkeypatch.setattr(torch.version, 'hip', '6.0')
    assert 'ROCm' in triton.unsuitable(device)
    assert 'cpu' in triton.unsuitable(torch.device('cpu'))


def test_refuses_maps_beyond_32_bits():
    query = torch.empty(1, 1, 1, 1, 1, 32).expand(1, 2**8, 2**8, 2**5, 2**6, 32)
    reason = triton.unsupported_reason(query, num_heads=1)
    assert '2**31' in reason


@pytest.mark.first_tier(8)
@pytest.mark.parametrize('first', range(0, 200, 10))
def test_random_shapes(first, monkeypatch):
    for seed in range(first, first + 10):
        # Each way in turn, whatever would be chosen.
        monkeypatch.setattr(triton, 'sees_map', lambda *_: seed % 2 == 1)
        tolerances.assert_within('triton', random_case(seed), DEVICE, torch.float32)
