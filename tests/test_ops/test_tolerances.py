"""Every backend in plain PyTorch against the reference in fp64, and the page
that says how far they may be; test_triton.py has the kernels'."""

import random
import re

import pytest
import torch
from tolerances import TOLERANCES, assert_within, make_inputs
from tool_runner import ROOT

from biformer_mm.ops import region_attention
from biformer_mm.ops.backends import sdpa

DTYPES = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


def random_case(seed):
    draw = random.Random(seed)
    sh, sw = draw.randint(1, 5), draw.randint(1, 5)
    h, w = draw.randint(1, 8), draw.randint(1, 8)
    valid = draw.randint(1, sh * h), draw.randint(1, sw * w)
    return (
        draw.randint(1, 2),
        sh,
        sw,
        h,
        w,
        draw.randint(1, 3),
        draw.choice([16, 32, 64]),
        draw.randint(1, min(16, sh * sw)),
        draw.choice([None, None, valid]),
        draw.random() < 0.5,
    )


@pytest.mark.first_tier(5)
@pytest.mark.parametrize('dtype', DTYPES)
def test_random_shapes(backend, device, dtype):
    token = torch.zeros(1, device=device, dtype=DTYPES[dtype])
    if backend == 'sdpa' and sdpa.unsupported_reason(token, 1):
        qkv, index, options = make_inputs(random_case(0), device, DTYPES[dtype])
        with pytest.raises(RuntimeError, match=f'{dtype} attention'):
            region_attention(*qkv, index, **options, backend=backend)
        backend = 'auto'
    for seed in range(40):
        assert_within(backend, random_case(seed), device, DTYPES[dtype], seed)


def rows_of_the_page():
    """(backend, dtype) -> [(seen or None, asserted)] of output and
    gradients."""
    text = (ROOT / 'docs/numerics.md').read_text()
    rows = re.findall(r'^\| `(\w+)`[^|]*, (fp\d\d|bf16) \|(.*)\|$', text, flags=re.M)
    found = {}
    for backend, dtype, cells in rows:
        numbers = [None if cell.strip() == '-' else float(cell) for cell in cells.split('|')]
        found[backend, DTYPES[dtype]] = list(zip(numbers[::2], numbers[1::2]))
    return found


def test_the_page_has_the_table():
    asserted = {key: tuple(cell[1] for cell in cells) for key, cells in rows_of_the_page().items()}
    assert asserted == {
        (backend, dtype): pair
        for (backend, _), row in TOLERANCES.items()
        for dtype, pair in row.items()
    }


def test_tolerances_are_tight_where_they_were_measured():
    for key, cells in rows_of_the_page().items():
        for seen, asserted in cells:
            assert (seen is None) == (key[0] == 'triton'), key
            assert seen is None or 2 * seen <= asserted <= 4 * seen, key
