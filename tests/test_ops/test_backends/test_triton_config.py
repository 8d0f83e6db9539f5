import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from biformer_mm.ops.backends import triton_config

# Tokens, regions and k of BiFormer's stages; is the map seen whole?
SEEN = [
    (64, 49, 1, False),  # 224, S = 7
    (16, 49, 4, False),
    (4, 49, 16, True),
    (49, 1, 1, False),
    (16, 64, 16, False),  # 512, S = 8
    (24, 256, 16, False),  # 800x1333, S = 16
    (1, 2048, 2048, False),  # a bias of 16 MiB
]


@pytest.mark.parametrize('tokens, regions, topk, expected', SEEN)
def test_chooses_what_queries_see(tokens, regions, topk, expected):
    assert triton_config.sees_map(32, tokens, regions, topk) == expected
    assert not triton_config.sees_map(64, tokens, regions, topk)


@pytest.mark.skipif(
    not hasattr(torch.backends, 'fp32_precision'), reason='PyTorch without fp32_precision'
)
@pytest.mark.parametrize(
    'setting, expected',
    [
        ("matmul.fp32_precision = 'tf32'", 'tf32'),
        ("matmul.fp32_precision = 'ieee'", 'ieee'),
        ("torch.backends.fp32_precision = 'tf32'", 'tf32'),
        ("torch.backends.fp32_precision = 'tf32'; matmul.fp32_precision = 'ieee'", 'ieee'),
        ("torch.set_float32_matmul_precision('high')", 'tf32'),
        ('pass', 'ieee'),
    ],
)
def test_follows_the_precision_that_is_set(setting, expected):
    """In a process of its own: the new settings cannot all be taken back."""
    script = (
        'import torch; matmul = torch.backends.cuda.matmul; '
        f'{setting}\n'
        'from biformer_mm.ops.backends.triton_config import precision_of\n'
        'print(precision_of(torch.float32), precision_of(torch.half))'
    )
    printed = subprocess.run(
        [sys.executable, '-c', script], check=True, text=True, stdout=subprocess.PIPE
    ).stdout
    assert printed.split() == [expected, 'half']


def test_follows_the_flag_of_older_pytorch(monkeypatch):
    for allowed, expected in ((True, 'tf32'), (False, 'ieee')):
        monkeypatch.setattr(torch.backends.cuda, 'matmul', SimpleNamespace(allow_tf32=allowed))
        assert triton_config.precision_of(torch.float32) == expected


@pytest.mark.parametrize('capability', [80, 100])
@pytest.mark.parametrize('precision, block', triton_config.TILES)
def test_the_smallest_tile_that_holds_a_region_is_chosen(precision, block, capability):
    for kernel, tiles in zip(triton_config.KERNELS, triton_config.TILES[precision, block]):
        # Blackwell's are at most 32.
        allowed = [own for own in tiles if capability < 100 or own <= 32]
        for tokens in (1, 16, 17, 32, 33, 49, 64, 1000):
            chosen = triton_config.choose(kernel, precision, block, tokens, 4, capability)
            assert (chosen.listed, chosen.num_warps) == tiles[chosen.own]
            assert chosen.own in allowed
            assert chosen.own >= tokens or chosen.own == max(allowed)
            assert not any(tokens <= own < chosen.own for own in allowed)


def test_the_gradient_of_keys_owns_keys():
    config = triton_config.Config(own=64, listed=16, num_warps=4, num_stages=3)
    assert config.options('forward') == dict(BLOCK_M=64, BLOCK_N=16, num_warps=4, num_stages=3)
    assert config.options('backward_key') == dict(BLOCK_M=16, BLOCK_N=64, num_warps=4, num_stages=3)


@pytest.mark.parametrize('head_dim, block', [(8, 32), (32, 32), (33, 64), (96, 128), (128, 128)])
def test_a_block_is_a_power_of_two_that_holds_a_head(head_dim, block):
    assert triton_config.block_of(head_dim) == block
