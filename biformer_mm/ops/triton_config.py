"""Which tiles the Triton kernels run with: a table, nothing is tuned at run
time.

A program owns a tile of one region's tokens (queries; in dK and dV keys) and
walks a list of other tokens tile by tile. The table is chosen so that every
entry compiles for sm_80 and sm_90 without spilling registers, with as few
instructions per query-key pair as the compiler's output shows;
``tools/analysis_tools/kernel_resources.py`` checks and prints it.
"""
from typing import Dict, NamedTuple

import torch

MAX_HEAD_DIM = 128
KERNELS = ('forward', 'backward_query', 'backward_key')

# Tokens of the own tile, of the list's, and warps, per kernel. 'half' is fp16
# and bf16; products of fp32 are either rounded to tf32 or, 'ieee', done
# without tensor cores.
TILES = {
    ('half', 32): ((64, 32, 4), (64, 32, 4), (64, 64, 4)),
    ('half', 64): ((64, 32, 4), (64, 32, 4), (32, 64, 4)),
    ('half', 128): ((64, 32, 4), (64, 32, 4), (32, 32, 4)),
    ('tf32', 32): ((64, 32, 4), (64, 32, 4), (64, 32, 4)),
    ('tf32', 64): ((64, 32, 4), (64, 32, 4), (32, 16, 4)),
    ('tf32', 128): ((32, 16, 4), (16, 16, 8), (32, 16, 4)),
    ('ieee', 32): ((32, 16, 4), (32, 16, 4), (32, 32, 8)),
    ('ieee', 64): ((32, 16, 4), (32, 16, 4), (32, 16, 4)),
    ('ieee', 128): ((32, 16, 8), (16, 16, 8), (32, 16, 8)),
}


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
            BLOCK_M=queries,
            BLOCK_N=keys,
            num_warps=self.num_warps,
            num_stages=self.num_stages)


def precision_of(dtype: torch.dtype) -> str:
    """The table's name of how products of tensors of ``dtype`` are done."""
    if dtype != torch.float32:
        return 'half'
    return 'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'ieee'


def block_of(head_dim: int) -> int:
    """Channels of a tile: the power of two that holds a head, at least 32."""
    return max(32, 1 << (head_dim - 1).bit_length())


def choose(kernel: str, precision: str, block_d: int, tokens: int,
           topk: int) -> Config:
    """The configuration for regions of so many tokens and k routed regions."""
    own, listed, warps = TILES[precision, block_d][KERNELS.index(kernel)]
    stages = 3
    if precision == 'half':
        if block_d <= 64:
            own = min(own, max(16, 1 << (tokens - 1).bit_length()))
        # Small tiles go with fewer warps, for more regions to be in flight.
        warps = min(warps, own * block_d // 256)
        # Triton gives one of two levels of loads, index and then tokens, half
        # the stages: from 5 on, tokens are fetched a tile ahead of their use.
        stages = 5
        if kernel != 'backward_key' and topk * tokens <= listed:
            stages = 1  # one tile: nothing to fetch ahead
    return Config(own, listed, warps, stages)
