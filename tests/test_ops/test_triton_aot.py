"""The kernels compiled for GPUs that are not there: the interpreter accepts
what the compiler refuses, and knows no registers."""
import re
from pathlib import Path

import pytest
from tool_runner import run_tool

triton = pytest.importorskip('triton', minversion='3.0')
BIN = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
# What a program may have, KiB.
SHARED_MEMORY = {80: 163, 90: 227}
ROW = re.compile(r'\| (.+?) \| .+?(\d+) \| (\d+) \| ([\d.]+) \|')


@pytest.mark.skipif(
    not all((BIN / tool).exists() for tool in ('ptxas', 'cuobjdump')),
    reason="Triton's package lacks ptxas or cuobjdump")
@pytest.mark.parametrize('capability', SHARED_MEMORY)
def test_no_configuration_spills(capability, tmp_path):
    """In the variant that takes most; the tool compiles the others too."""
    table = run_tool(
        'analysis_tools/kernel_resources.py',
        *('--capability', capability, '--variant', 'cropped'),
        cwd=tmp_path)
    rows = [ROW.fullmatch(line) for line in table.splitlines()]
    rows = [row for row in rows if row]
    # At least three kernels, three blocks of channels, three kinds of product.
    assert len(rows) >= 27
    for row in rows:
        gpu, registers, stack, shared = row.groups()
        assert gpu == f'sm_{capability}'
        assert int(stack) == 0, row[0]
        assert int(registers) <= 255, row[0]
        assert float(shared) <= SHARED_MEMORY[capability], row[0]
