"""Which tiles the Triton kernels run with: a table, nothing is tuned at run
time.

A program owns a tile of tokens (queries; in dK and dV keys) and walks a list
of other tokens tile by tile. The table is chosen so that every entry compiles
for sm_80, 86, 89, 90, 100 and 120 without spilling registers and within 99 KiB
of shared memory, with as few instructions per query-key pair as the compiler's
output shows; ``tools/analysis_tools/kernel_resources.py`` checks and prints
it.
"""

from functools import lru_cache
from typing import Dict, NamedTuple, Tuple

import torch

MAX_HEAD_DIM = 128
KERNELS = ('forward', 'backward_query', 'backward_key')

# Per kernel, by tokens of the own tile: tokens of the list's, and warps.
# 'half' is fp16 and bf16; products of fp32 are either rounded to tf32 or,
# 'ieee', done without tensor cores.
TILES = {
    ('half', 32): ({64: (64, 4), 32: (64, 2), 16: (64, 1)},
                   {64: (64, 4), 32: (64, 2), 16: (64, 1)},
                   {64: (64, 4), 32: (32, 2), 16: (64, 2)}),
    ('half', 64): ({64: (64, 4), 32: (64, 2), 16: (64, 2)},
                   {64: (64, 4), 32: (64, 2), 16: (64, 2)},
                   {32: (32, 2), 16: (64, 2)}),
    ('half', 128): ({64: (32, 4), 32: (32, 4)},
                    {64: (32, 4), 32: (32, 4)},
                    {32: (32, 4)}),
    ('tf32', 32): ({32: (32, 2)}, {32: (32, 2)}, {32: (32, 4)}),
    ('tf32', 64): ({32: (32, 2)}, {32: (32, 2)}, {32: (16, 4)}),
    ('tf32', 128): ({32: (16, 4)}, {16: (16, 8)}, {32: (16, 4)}),
    ('ieee', 32): ({32: (16, 4)}, {32: (16, 4)}, {32: (32, 8)}),
    ('ieee', 64): ({32: (16, 4)}, {32: (16, 4)}, {32: (16, 4)}),
    ('ieee', 128): ({32: (16, 8)}, {16: (16, 4)}, {32: (16, 8)}),
}  # fmt: skip
# The same for kernels in which queries see the whole map.
MAP_TILES = {
    'half': ({64: (64, 4), 32: (64, 2)},
             {64: (64, 4), 32: (64, 2)},
             {64: (32, 4), 32: (32, 2)}),
    'tf32': ({32: (32, 2)}, {32: (32, 2)}, {32: (32, 2)}),
    'ieee': ({32: (16, 4)}, {32: (16, 4)}, {32: (16, 8)}),
}  # fmt: skip


class Config(NamedTuple):
    """Tokens of the own tile, of the list's tile, and launch options."""

    own: int
    listed: int
    num_warps: int
    num_stages: int

    def options(self, kernel: str) -> Dict[str, int]:
        """Keyword arguments of a launch."""
        queries, keys = self.own, self.listed
        if kernel == 'backward_key':
            queries, keys = keys, queries
        return dict(
            BLOCK_M=queries, BLOCK_N=keys, num_warps=self.num_warps, num_stages=self.num_stages
        )


def precision_of(dtype: torch.dtype) -> str:
    """Name how products of tensors of ``dtype`` are done, as TILES does.

    In fp32 PyTorch's setting for matrix products counts, however it was set.
    """
    if dtype != torch.float32:
        return 'half'
    matmul = torch.backends.cuda.matmul
    # From PyTorch 2.9 on, reading the old flag can raise. The new setting
    # follows the old one and those it inherits from; 'none' is the default.
    precision = getattr(matmul, 'fp32_precision', None)
    tf32 = matmul.allow_tf32 if precision is None else precision == 'tf32'
    return 'tf32' if tf32 else 'ieee'


def block_of(head_dim: int) -> int:
    """Channels of a tile: the power of two that holds a head, at least 32."""
    return max(32, 1 << (head_dim - 1).bit_length())


@lru_cache(maxsize=None)
def capability_of(device: torch.device) -> int:
    """Ten times a GPU's compute capability; 80 where Triton interprets."""
    if device.type != 'cuda':
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def sees_map(block_d: int, tokens: int, regions: int, topk: int) -> bool:
    """Whether queries see the whole map through a mask, or k regions.

    A product has 16 rows, so that a region of fewer tokens is multiplied with
    its k * tokens keys at the price of k * 16 for each query. Where a map has
    no more, one program serves many regions and reads each key once.
    """
    # The bias takes up to 4 MiB an image.
    return block_d == 32 and regions * tokens <= min(16 * topk, 1024)


def choose(
    kernel: str, precision: str, block_d: int, tokens: int, topk: int, capability: int
) -> Config:
    """The configuration for regions of so many tokens and k routed regions."""
    tiles = TILES[precision, block_d][KERNELS.index(kernel)]
    own = _own_tile(tiles, tokens, capability)
    listed, warps = tiles[own]
    # Triton gives one of two levels of loads, index and then tokens, half the
    # stages: from 5 on, tokens are fetched a tile ahead of their use.
    stages = 5 if precision == 'half' else 3
    if precision == 'ieee' and block_d == 128:
        stages = 2  # sm_80 spills with 3
    if precision == 'half' and own == 16 and kernel != 'backward_key' and topk * tokens <= listed:
        stages = 2  # one tile: less memory, so more programs at a time
    return Config(own, listed, warps, stages)


def choose_on_map(kernel: str, precision: str, capability: int) -> Config:
    """The configuration where queries see the whole map."""
    tiles = MAP_TILES[precision][KERNELS.index(kernel)]
    own = _own_tile(tiles, 64, capability)
    # One stage: fetched ahead, the bias would come past the L1 cache, in which
    # the queries of a region find it.
    return Config(own, *tiles[own], 1)


def _own_tile(tiles: Dict[int, Tuple[int, int]], tokens: int, capability: int) -> int:
    """Of a table's own tiles, the smallest that holds as many tokens, or the
    largest that there is.
    """
    # Blackwell: sm_100's products of 64 rows go through tensor memory, at up
    # to three times the instructions; sm_120 spills in dK and dV.
    most = 32 if capability >= 100 else max(tiles)
    fitting = [own for own in tiles if own <= most]
    return min((own for own in fitting if own >= tokens), default=max(fitting))
