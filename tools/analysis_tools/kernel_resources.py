#!/usr/bin/env python
"""Compile the attention's Triton kernels for GPUs that need not be there.

Prints, as a Markdown table, what each configuration takes: registers per
thread, bytes of stack per thread (spilled registers), shared memory per
program. Fails where one spills or does not fit. Needs Triton 3, not a GPU.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Iterator, NamedTuple

# Compiled, not interpreted; Triton reads it when the kernels are defined.
os.environ.pop('TRITON_INTERPRET', None)

from biformer_mm.ops import triton_config  # noqa: E402

# Shared memory that one program can have, in bytes, by compute capability.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
REGISTERS = 255  # of a thread
# How else a kernel can be compiled, from what takes most to what takes least:
# is the map cropped, are keys, has the list no remainder; and how many
# quarters of the block are channels.
VARIANTS = {
    'cropped': dict(CROP=True, CROP_KEYS=True, EVEN=False, of_block=4),
    'narrow head': dict(CROP=True, CROP_KEYS=True, EVEN=False, of_block=3),
    'queries cropped':
    dict(CROP=True, CROP_KEYS=False, EVEN=False, of_block=4),
    'even': dict(CROP=True, CROP_KEYS=True, EVEN=True, of_block=4),
    'whole': dict(CROP=False, CROP_KEYS=False, EVEN=False, of_block=4),
    'whole, even': dict(CROP=False, CROP_KEYS=False, EVEN=True, of_block=4),
}
TYPES = {'half': 'bf16', 'tf32': 'fp32', 'ieee': 'fp32'}


class Resources(NamedTuple):
    """A kernel, how it is configured and what it takes."""
    variant: str
    capability: int
    kernel: str
    precision: str
    block_d: int
    config: triton_config.Config
    registers: int
    stack: int
    shared: int

    def fits(self) -> bool:
        """Whether nothing is spilled and the GPU has as much."""
        return (self.stack == 0 and self.registers <= REGISTERS
                and self.shared <= SHARED_MEMORY[self.capability])


def measure(capability: int, variant: str) -> Iterator[Resources]:
    """Compile every configuration that can be chosen."""
    for precision, block_d in triton_config.TILES:
        for kernel in triton_config.KERNELS:
            configs = {
                triton_config.choose(kernel, precision, block_d, tokens, topk)
                for tokens in (16, 32, 64)
                for topk in (1, 16)
            }
            for config in sorted(configs):
                yield Resources(
                    variant, capability, kernel, precision, block_d, config,
                    *compile_kernel(capability, variant, kernel, precision,
                                    block_d, config))


def compile_kernel(capability: int, variant: str, kernel: str, precision: str,
                   block_d: int, config: triton_config.Config):
    """Registers, stack and shared memory of one configuration."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from biformer_mm.ops import triton_kernels
    options = config.options(kernel)
    launch = {name: options.pop(name) for name in ('num_warps', 'num_stages')}
    constants = dict(
        options,
        BLOCK_D=block_d,
        PRECISION='tf32' if precision == 'tf32' else 'ieee',
        **VARIANTS[variant])
    constants['HEAD_DIM'] = block_d * constants.pop('of_block') // 4
    function = getattr(triton_kernels, kernel)
    signature = _signature(function.arg_names, constants, TYPES[precision])
    # What a launch finds out of pointers and strides: multiples of 16.
    aligned = {
        (i, ): [['tt.divisibility', 16]]
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith('*') or name[:2] in ('i_', 'o_')
    }
    compiled = triton.compile(
        ASTSource(function, signature, constants, aligned),
        target=GPUTarget('cuda', capability, 32),
        options=launch)
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        usage = subprocess.run([find_cuobjdump(), '-res-usage', file.name],
                               check=True,
                               text=True,
                               stdout=subprocess.PIPE).stdout
    registers, stack = (
        int(re.search(rf'{name}:(\d+)', usage)[1])
        for name in ('REG', 'STACK'))
    return registers, stack, compiled.metadata.shared


def find_cuobjdump() -> Path:
    """Path of NVIDIA's tool, which Triton's package has.

    Raises:
        ImportError: There is no such Triton.
    """
    import triton.backends.compiler  # from Triton 3 on
    path = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    if not path.is_file():
        raise ImportError(f'there is no {path}')
    return path


def _signature(names, constants, dtype: str) -> Dict[str, str]:
    special = dict(
        INDEX='*i64',
        START='*i32',
        READER='*i32',
        LSE='*fp32',
        STATISTICS='*fp32',
        scale='fp32',
        by_T='i64',
        by_SW='i64',
        by_w='i64',
        **dict.fromkeys(constants, 'constexpr'),
        **dict.fromkeys(('R', 'T', 'SW'), 'i32'))
    return {
        name: special.get(name, f'*{dtype}' if name.isupper() else 'i32')
        for name in names
    }


def main() -> int:
    # Not engine.command_line's parser: this tool does without MMEngine.
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example:\n  python tools/analysis_tools/kernel_resources.py '
        '--variant cropped',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--capability',
        type=int,
        nargs='+',
        choices=SHARED_MEMORY,
        default=list(SHARED_MEMORY),
        help='compute capabilities, times ten (default: all)')
    parser.add_argument(
        '--variant',
        nargs='+',
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar='NAME',
        help=f'variants of each kernel, of {", ".join(map(repr, VARIANTS))} '
        '(default: all)')
    args = parser.parse_args()
    try:
        find_cuobjdump()
    except ImportError as error:
        sys.exit('kernel_resources.py: error: Triton 3 for NVIDIA GPUs must '
                 f'be installed ({error}); pip install "triton>=3"')
    print('| GPU | variant | products | channels | kernel | own x list tile '
          '| warps | stages | registers | stack, B | shared memory, KiB |')
    print('|---|---|---|---|---|---|---|---|---|---|---|')
    failed = False
    for capability in args.capability:
        for variant in args.variant:
            for found in measure(capability, variant):
                own, listed, warps, stages = found.config
                print(
                    f'| sm_{capability} | {variant} | {found.precision} | '
                    f'{found.block_d} | {found.kernel} | {own} x {listed} | '
                    f'{warps} | {stages} | {found.registers} | {found.stack} '
                    f'| {found.shared / 1024:.1f} |',
                    flush=True)
                failed |= not found.fits()
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
