"""Tile sizes and launch options of the Triton kernels.

They are a fixed table; nothing is tuned at run time. A program owns a tile of tokens (queries; for
dK and dV keys) and walks a list of other tokens tile by tile. Every entry compiles for sm_80, 86,
89, 90, 100 and 120 without register spills and within 99 KiB of shared memory. Among such entries
the table has those with the fewest instructions per query-key pair in the compiled code;
``tools/analysis_tools/kernel_resources.py`` checks and prints it.
"""

from functools import lru_cache
from typing import Dict, NamedTuple, Tuple

import torch

MAX_HEAD_DIM = 128
KERNELS = ('forward', 'backward_query', 'backward_key')

# For each kernel: {tokens of the own tile: (tokens of the listed tile, warps)}. 'half' is fp16 and
# bf16. Products in fp32 are rounded to tf32, or for 'ieee' computed without tensor cores.
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
# The same for the kernels of triton_map.
MAP_TILES = {
    'half': ({64: (64, 4), 32: (64, 2)},
             {64: (64, 4), 32: (64, 2)},
             {64: (32, 4), 32: (32, 2)}),
    'tf32': ({32: (32, 2)}, {32: (32, 2)}, {32: (32, 2)}),
    'ieee': ({32: (16, 4)}, {32: (16, 4)}, {32: (16, 8)}),
}  # fmt: skip


class Config(NamedTuple):
    """Tokens of the own and of the listed tile, and launch options."""

    own: int
    listed: int
    num_warps: int
    num_stages: int

    def options(self, kernel: str) -> Dict[str, int]:
        """Return the keyword arguments of a launch."""
        queries, keys = self.own, self.listed
        if kernel == 'backward_key':
            queries, keys = keys, queries
        return dict(
            BLOCK_M=queries, BLOCK_N=keys, num_warps=self.num_warps, num_stages=self.num_stages
        )


def precision_of(dtype: torch.dtype) -> str:
    """Return how products of ``dtype`` are computed: 'half', 'tf32' or 'ieee'.

    For fp32 this follows PyTorch's setting for matrix products, both the old and the new one.
    """
    if dtype != torch.float32:
        return 'half'
    matmul = torch.backends.cuda.matmul
    # Since PyTorch 2.9, reading the old flag can raise. The new setting includes the old one and
    # the settings it inherits from; its default is 'none'.
    precision = getattr(matmul, 'fp32_precision', None)
    tf32 = matmul.allow_tf32 if precision is None else precision == 'tf32'
    return 'tf32' if tf32 else 'ieee'


def block_of(head_dim: int) -> int:
    """Return the channels of a tile: the power of two that holds a head, at least 32."""
    return max(32, 1 << (head_dim - 1).bit_length())


@lru_cache(maxsize=None)
def capability_of(device: torch.device) -> int:
    """Return ten times the compute capability of a GPU, or 80 for Triton's interpreter."""
    if device.type != 'cuda':
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def sees_map(block_d: int, tokens: int, regions: int, topk: int) -> bool:
    """Return whether queries see the whole map through a mask, instead of k regions.

    A product has 16 rows. For a region of fewer tokens, each query costs as much as k * 16 keys
    would. If the map has no more tokens than that, it is better to let one program serve many
    regions and read each key once.
    """
    # The bias takes up to 4 MiB an image.
    return block_d == 32 and regions * tokens <= min(16 * topk, 1024)


def choose(
    kernel: str, precision: str, block_d: int, tokens: int, topk: int, capability: int
) -> Config:
    """Choose the configuration for regions of some tokens and k routed regions."""
    tiles = TILES[precision, block_d][KERNELS.index(kernel)]
    own = _own_tile(tiles, tokens, capability)
    listed, warps = tiles[own]
    # Triton splits the stages between two levels of loads, index and tokens. With 5 or more,
    # tokens are fetched one tile ahead.
    stages = 5 if precision == 'half' else 3
    if precision == 'ieee' and block_d == 128:
        stages = 2  # sm_80 spills with 3
    if precision == 'half' and own == 16 and kernel != 'backward_key' and topk * tokens <= listed:
        stages = 2  # the list is one tile; less memory lets more programs run at once
    return Config(own, listed, warps, stages)


def choose_on_map(kernel: str, precision: str, capability: int) -> Config:
    """Choose the configuration for queries that see the whole map."""
    tiles = MAP_TILES[precision][KERNELS.index(kernel)]
    own = _own_tile(tiles, 64, capability)
    # One stage, because a prefetched bias bypasses the L1 cache, which the queries of a region
    # share.
    return Config(own, *tiles[own], 1)


def _own_tile(tiles: Dict[int, Tuple[int, int]], tokens: int, capability: int) -> int:
    """Return the smallest own tile of a table that holds the tokens, or the largest."""
    # On Blackwell tiles of 64 are bad: on sm_100 such products go through tensor memory, at up to
    # three times the instructions, and on sm_120 dK and dV spill registers.
    most = 32 if capability >= 100 else max(tiles)
    fitting = [own for own in tiles if own <= most]
    return min((own for own in fitting if own >= tokens), default=max(fitting))
