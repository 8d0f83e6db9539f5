"""What it holds in memory; test_region_attention.py has its results."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from region_cases import make_square
from torch.utils._python_dispatch import TorchDispatchMode

from biformer_mm.ops.backends import cpu, cpu_chunked

pytestmark = pytest.mark.skipif(
    cpu.unsupported_reason(torch.zeros(1), 1) is not None, reason='PyTorch before 2.4'
)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an op returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def test_holds_no_more_than_a_map_and_a_tile(monkeypatch):
    """Neither forward nor backward: here k keys and values would be 32 maps,
    all scores 64."""
    monkeypatch.setattr(cpu_chunked, 'TILE_BYTES', 4096)
    inputs = make_square(size=32, num_regions=8, topk=16)
    elements = inputs[0].numel()
    options = (1, 0.3, 0, 0, False)
    with Largest() as largest:
        out, lse = cpu_chunked._forward(*inputs, *options)
        cpu_chunked._backward(out, *inputs, out, lse, *options)
    # A tile is one region here, with its 16 routed regions.
    tile = 2 * 16 * elements // 64
    assert 0 < largest.elements <= max(elements, tile)


def test_a_tile_fills_its_bytes(monkeypatch):
    """Keys and values of as many regions as fit."""
    monkeypatch.setattr(cpu_chunked, 'TILE_BYTES', 40_000)
    _, key, value, index = make_square(size=32, num_regions=8, topk=4)
    region = 2 * 4 * 16 * 8 * 4  # 4 regions of 16 tokens, 8 channels of fp32
    keys = cpu_chunked._Keys(key, value, index, mask=None)
    assert keys.regions_per_tile == 40_000 // region
    assert sum(x.nbytes for x in keys.buffers) <= 40_000


def test_tiles_cover_each_token_on_the_map_once():
    for valid, most in (((0, 0), 4), ((11, 9), 5), ((4, 3), 100), ((1, 12), 1)):
        seen = torch.zeros(2, 4, 4, 3, 3, 1)
        for tile in cpu_chunked._tiles(seen.shape[1:5], 2, *valid, most):
            assert tile.cut(seen).shape[0] <= most
            tile.paste(tile.cut(seen) + 1, seen)
        seen = seen.transpose(2, 3).reshape(2, 12, 12)
        height, width = valid if valid[0] else (12, 12)
        assert (seen[:, :height, :width] == 1).all()
        assert seen.sum() == 2 * height * width


def test_trains_after_inference_mode():
    inputs = make_square(size=28, num_regions=7, topk=4)
    options = (1, 0.3, 0, 0, False)

    def infer_and_train():
        with torch.inference_mode():
            cpu_chunked.attend(*inputs, *options)
        query = inputs[0].clone().requires_grad_()
        cpu_chunked.attend(query, *inputs[1:], *options)[0].sum().backward()
        return query.grad

    with ThreadPoolExecutor(1) as pool:  # one without scratch memory
        assert pool.submit(infer_and_train).result().isfinite().all()


def test_threads_do_not_share_scratch_memory():
    first = cpu_chunked._scratch.get(2, 3, 4, torch.float32)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cpu_chunked._scratch.get, 2, 3, 4, torch.float32).result()
    again = cpu_chunked._scratch.get(2, 3, 4, torch.float32)
    assert first[0].data_ptr() == again[0].data_ptr() != other[0].data_ptr()
