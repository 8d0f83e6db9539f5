#!/usr/bin/env python
"""Compile the Triton kernels for GPUs that need not be there.

Prints, as a page in Markdown, what each configuration takes: instructions per
pair, registers per thread, bytes of stack per thread (spilled registers),
shared memory per program. Fails where one spills or does not fit. Needs
Triton 3, not a GPU.

Instructions per pair are those that the lanes of a program issue in one turn
of the kernel's loop, for each pair of a token of its own tile and one of the
list's: (instructions of the loop's body) * 32 * warps / (own * list tile). The
loop is the longest that the machine code has. A multiprocessor issues 128 a
clock, if nothing holds it up. The variant 'block' is of the kernels beside the
attention: there a pair is a token (in routing a region) and a channel.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Sequence, Tuple

# Compiled, not interpreted; Triton reads it when the kernels are defined.
os.environ.pop('TRITON_INTERPRET', None)

from biformer_mm.ops.backends import triton_config  # noqa: E402

# Shared memory that one program can have, in KiB, by compute capability.
SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
REGISTERS = 255  # of a thread
# How else a kernel can be compiled, from what takes most to what takes least:
# is the map cropped, are keys, has the list no remainder; and how many
# quarters of the block are channels.
VARIANTS = {
    'cropped': dict(CROP=True, CROP_KEYS=True, EVEN=False, of_block=4),
    'narrow head': dict(CROP=True, CROP_KEYS=True, EVEN=False, of_block=3),
    'queries cropped': dict(CROP=True, CROP_KEYS=False, EVEN=False, of_block=4),
    'even': dict(CROP=True, CROP_KEYS=True, EVEN=True, of_block=4),
    'whole': dict(CROP=False, CROP_KEYS=False, EVEN=False, of_block=4),
    'whole, even': dict(CROP=False, CROP_KEYS=False, EVEN=True, of_block=4),
}
BLOCKS = (32, 64, 128)
# Beside the attention: kernel, module, warps, what is compiled in, and tile;
# as it is for many channels or regions.
BLOCK = 'block'
_CONV = dict(SIZE=5, FLIP=False, ADD_BIAS=True, ADD=True)
OF_BLOCK = [
    ('norm_forward', 'layer_norm', 4, dict(ADD=True), (4, 512)),
    ('norm_forward', 'layer_norm', 8, dict(ADD=True), (1, 4096)),
    ('norm_backward', 'layer_norm', 4, dict(ADD=True), (4, 512)),
    ('norm_backward', 'layer_norm', 8, dict(ADD=True), (1, 4096)),
    ('convolve', 'depthwise', 1, _CONV, (16, 32)),
    ('convolve_weight', 'depthwise', 2, dict(SIZE=5, TAPS=32), (2, 32)),
    ('region_means', 'routing', 4, dict(CROP=True), (32, 64)),
    ('route', 'routing', 4, dict(CROP=True, BLOCK_T=4, BLOCK_C=32), (16, 64)),
    ('route', 'routing', 4, dict(CROP=True, BLOCK_T=1, BLOCK_C=16), (16, 256)),
    ('route', 'routing', 8, dict(CROP=True, BLOCK_T=1, BLOCK_C=16), (16, 512)),
    ('readers', 'routing', 4, dict(), (1, 1024)),
]
TYPES = {'half': 'bf16', 'tf32': 'fp32', 'ieee': 'fp32'}


class Case(NamedTuple):
    """A kernel and how it is compiled."""

    capability: int
    variant: str
    precision: str
    block_d: int
    kernel: str
    config: triton_config.Config


class Resources(NamedTuple):
    """What a compiled kernel takes; shared memory in bytes."""

    loop: int
    registers: int
    stack: int
    shared: int

    def fit(self, capability: int) -> bool:
        """Whether nothing is spilled and the GPU has as much."""
        return (
            self.stack == 0
            and self.registers <= REGISTERS
            and self.shared <= SHARED_MEMORY[capability] * 1024
        )


def cases(
    capability: int, variant: str, products: Sequence[str], blocks: Sequence[int]
) -> Iterator[Case]:
    """Every configuration that can be chosen."""
    if variant == BLOCK:
        for kernel, _, warps, _, tile in OF_BLOCK:
            yield Case(
                capability, variant, 'half', tile[1], kernel, triton_config.Config(*tile, warps, 3)
            )
        return
    for precision, block_d in triton_config.TILES:
        if precision not in products or block_d not in blocks:
            continue
        for kernel in triton_config.KERNELS:
            configs = {
                triton_config.choose(kernel, precision, block_d, tokens, topk, capability)
                for tokens in (16, 32, 64)
                for topk in (1, 16)
            }
            for config in sorted(configs):
                yield Case(capability, variant, precision, block_d, kernel, config)
        # Maps of one token are seen whole, if heads are narrow enough.
        if not triton_config.sees_map(block_d, 1, 1, 1):
            continue
        for kernel in triton_config.KERNELS:
            config = triton_config.choose_on_map(kernel, precision, capability)
            yield Case(capability, variant, precision, block_d, f'map_{kernel}', config)
        # It has no tiles to choose, and Triton's default launch options.
        yield Case(
            capability, variant, precision, block_d, 'map_bias', triton_config.Config(64, 16, 4, 3)
        )


def measure(case: Case) -> Resources:
    """Compile a kernel and read what it takes off its machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    find_function = _of_block if case.variant == BLOCK else _of_attention
    function, constants, launch = find_function(case)
    constants = {x: constants[x] for x in function.arg_names if x in constants}
    signature = _signature(function.arg_names, constants, TYPES[case.precision])
    # What a launch finds out of pointers and strides: multiples of 16.
    aligned = {
        (i,): [['tt.divisibility', 16]]
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith('*') or name == 'C' or name[1:2] == '_'
    }
    compiled = triton.compile(
        ASTSource(function, signature, constants, aligned),
        target=GPUTarget('cuda', case.capability, 32),
        options=launch,
    )
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        usage, code = (
            subprocess.run(
                [find('cuobjdump'), option, file.name],
                check=True,
                text=True,
                stdout=subprocess.PIPE,
            ).stdout
            for option in ('-res-usage', '-sass')
        )
    registers, stack = (int(re.search(rf'{name}:(\d+)', usage)[1]) for name in ('REG', 'STACK'))
    return Resources(longest_loop(code), registers, stack, compiled.metadata.shared)


def _of_attention(case: Case) -> Tuple[Any, Dict, Dict]:
    """The kernel, what is compiled into it, and launch options."""
    from biformer_mm.ops.backends import triton_kernels, triton_map

    on_map = case.kernel.startswith('map_')
    options = case.config.options(case.kernel.replace('map_', ''))
    launch = {name: options.pop(name) for name in ('num_warps', 'num_stages')}
    constants = dict(
        options,
        BLOCK_D=case.block_d,
        BLOCK_K=16,
        OF_KEYS=False,
        LIKE_INPUT=True,
        PRECISION='tf32' if case.precision == 'tf32' else 'ieee',
        **VARIANTS[case.variant],
    )
    constants['HEAD_DIM'] = case.block_d * constants.pop('of_block') // 4
    return (getattr(triton_map if on_map else triton_kernels, case.kernel), constants, launch)


def _of_block(case: Case) -> Tuple[Any, Dict, Dict]:
    """The same beside the attention."""
    tile = case.config.own, case.config.listed
    module, constants = next(
        (module, constants)
        for kernel, module, warps, constants, of_kernel in OF_BLOCK
        if (kernel, of_kernel) == (case.kernel, tile)
    )
    module = import_module(f'biformer_mm.ops.backends.triton_{module}')
    function = getattr(module, case.kernel)
    # A tile's two sizes are named in this order.
    names = [name for name in function.arg_names if name[:5] == 'BLOCK' and name not in constants]
    return (
        function,
        dict(constants, **dict(zip(names, tile[-len(names) :]))),
        dict(num_warps=case.config.num_warps),
    )


def longest_loop(code: str) -> int:
    """Count the instructions of the longest loop in ``cuobjdump -sass``'s output.

    A loop is from the target of a branch backwards to the branch, both included; 0 if there is
    none.
    """
    addresses = [int(x, 16) for x in re.findall(r'^ +/\*([0-9a-f]{4,})\*/ ', code, re.M)]
    branches = re.findall(r'^ +/\*([0-9a-f]{4,})\*/ .*?\bBRA\b.*? 0x(\w+)', code, re.M)
    spans = [(int(target, 16), int(branch, 16)) for branch, target in branches]
    return max(
        (
            sum(target <= x <= branch for x in addresses)
            for target, branch in spans
            if target < branch
        ),
        default=0,
    )


def find(tool: str) -> Path:
    """Path of a tool of NVIDIA's that Triton's package has.

    Raises:
        ImportError: There is no such Triton.
    """
    import triton.backends.compiler  # from Triton 3 on

    path = Path(triton.__file__).parent / 'backends/nvidia/bin' / tool
    if not path.is_file():
        raise ImportError(f'there is no {path}')
    return path


def assembler(capability: int) -> str:
    """The tool that assembles for a GPU."""
    return 'ptxas' if capability < 100 else 'ptxas-blackwell'


def _signature(names, constants, dtype: str) -> Dict[str, str]:
    special = dict(
        INDEX='*i64',
        START='*i32',
        READER='*i32',
        BIAS='*fp32',
        WEIGHT='*fp32',
        PARTIAL='*fp32',
        MEANS='*fp32',
        eps='fp32',
        LSE='*fp32',
        STATISTICS='*fp32',
        scale='fp32',
        by_T='i64',
        by_SW='i64',
        by_w='i64',
        **dict.fromkeys(constants, 'constexpr'),
        **dict.fromkeys(('C', 'M', 'N', 'R', 'T', 'SW'), 'i32'),
    )
    return {name: special.get(name, f'*{dtype}' if name.isupper() else 'i32') for name in names}


def row(case: Case, found: Resources) -> str:
    """A line of the table."""
    own, listed, warps, stages = case.config
    per_pair = found.loop * 32 * warps / (own * listed)
    cells = (
        f'sm_{case.capability}',
        case.variant,
        case.precision,
        case.block_d,
        case.kernel,
        f'{own} x {listed}',
        warps,
        stages,
        f'{per_pair:.1f}',
        found.registers,
        found.stack,
        f'{found.shared / 1024:.1f}',
    )
    return f'| {" | ".join(map(str, cells))} |'


def main(argv: Sequence[str]) -> int:
    # Not engine.command_line's parser: this tool does without MMEngine.
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example:\n  python tools/analysis_tools/kernel_resources.py --variant cropped',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--capability',
        type=int,
        nargs='+',
        choices=SHARED_MEMORY,
        default=list(SHARED_MEMORY),
        help='compute capabilities, times ten (default: all)',
    )
    parser.add_argument(
        '--variant',
        nargs='+',
        choices=(*VARIANTS, BLOCK),
        default=[*VARIANTS, BLOCK],
        metavar='NAME',
        help='variants of each kernel, of '
        f'{", ".join(map(repr, (*VARIANTS, BLOCK)))} (default: all)',
    )
    parser.add_argument(
        '--products',
        nargs='+',
        choices=TYPES,
        default=list(TYPES),
        help='how products are done (default: each way)',
    )
    parser.add_argument(
        '--block',
        type=int,
        nargs='+',
        choices=BLOCKS,
        default=BLOCKS,
        help='channels of a tile (default: each number)',
    )
    args = parser.parse_args(argv)
    try:
        for tool in ('cuobjdump', *map(assembler, args.capability)):
            find(tool)
    except ImportError as error:
        sys.exit(
            'kernel_resources.py: error: Triton 3 for NVIDIA GPUs must '
            f'be installed ({error}); pip install "triton>=3"'
        )
    todo = [
        case
        for capability in args.capability
        for variant in args.variant
        for case in cases(capability, variant, args.products, args.block)
    ]
    print(
        '# What the Triton kernels take\n\nGenerated by `python '
        f'{" ".join(["tools/analysis_tools/kernel_resources.py", *argv])}` '
        f'with Triton {version("triton")}; it says what the columns mean.\n'
    )
    print(
        '| GPU | variant | products | channels | kernel | own x list tile '
        '| warps | stages | instructions per pair | registers | stack, B '
        '| shared memory, KiB |'
    )
    print('|' + '---|' * 12)
    failed = False
    with ProcessPoolExecutor(2, mp_context=get_context('spawn')) as pool:
        for case, found in zip(todo, pool.map(measure, todo)):
            print(row(case, found), flush=True)
            failed |= not found.fit(case.capability)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
