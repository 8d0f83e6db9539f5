"""The kernels compiled for GPUs that are not there: the interpreter accepts
what the compiler refuses, and knows no registers."""

import pytest
from tool_runner import ROOT, load_module, run_tool

triton = pytest.importorskip('triton', minversion='3.0')
TOOL = 'analysis_tools/kernel_resources.py'
# What a program may have, KiB.
SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
# The least memory and the most common server; the others take minutes more.
FIRST_TIER = (86, 90)
# Half precision, heads of 32 channels, sm_90: instructions per pair and
# registers that Triton 3.6 gave, by variant, kernel and own tile. Other
# versions may differ by MARGIN.
MARGIN = 1.1
FIGURES = {
    ('whole, even', 'forward', 64): (10.5, 95),
    ('whole, even', 'forward', 32): (11.2, 125),
    ('whole, even', 'forward', 16): (12.8, 132),
    ('whole, even', 'backward_query', 64): (9.3, 119),
    ('whole, even', 'backward_query', 32): (11.1, 128),
    ('whole, even', 'backward_query', 16): (12.6, 138),
    ('whole, even', 'backward_key', 64): (10.3, 188),
    ('whole, even', 'backward_key', 32): (15.4, 132),
    ('whole, even', 'backward_key', 16): (16.6, 140),
    ('whole, even', 'map_bias', 64): (51.9, 32),
    ('whole, even', 'map_forward', 64): (11.5, 134),
    ('whole, even', 'map_backward_query', 64): (10.6, 128),
    ('whole, even', 'map_backward_key', 64): (16.7, 126),
    ('cropped', 'forward', 64): (11.9, 133),
    ('cropped', 'forward', 32): (13.0, 186),
    ('cropped', 'forward', 16): (16.6, 194),
    ('cropped', 'backward_query', 64): (11.2, 125),
    ('cropped', 'backward_query', 32): (12.7, 178),
    ('cropped', 'backward_query', 16): (16.0, 230),
    ('cropped', 'backward_key', 64): (13.7, 166),
    ('cropped', 'backward_key', 32): (19.2, 168),
    ('cropped', 'backward_key', 16): (21.4, 144),
    ('cropped', 'map_bias', 64): (68.0, 32),
    ('cropped', 'map_forward', 64): (11.9, 138),
    ('cropped', 'map_backward_query', 64): (10.8, 128),
    ('cropped', 'map_backward_key', 64): (17.4, 126),
}


@pytest.fixture(autouse=True)
def no_interpreter(monkeypatch):
    """The tool unsets it, also where it is only imported: other tests need it again."""
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)


def compiled(folder, *args):
    """Rows of the tool's table, by column."""
    lines = run_tool(TOOL, *args, cwd=folder).splitlines()
    heading, _, *rows = (line.strip('| ').split(' | ') for line in lines if line[:1] == '|')
    assert rows
    return [dict(zip(heading, row)) for row in rows]


def needs_assembler(capability):
    tool = load_module(ROOT / 'tools' / TOOL)
    try:
        for name in ('cuobjdump', tool.assembler(capability)):
            tool.find(name)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    'capability',
    [pytest.param(x, marks=() if x in FIRST_TIER else pytest.mark.slow) for x in SHARED_MEMORY],
)
def test_no_configuration_spills(capability, tmp_path):
    """In the variant that takes most; the tool compiles the others too."""
    needs_assembler(capability)
    rows = compiled(tmp_path, '--capability', capability, '--variant', 'cropped')
    # Three kernels, three blocks of channels, three kinds of product; and
    # three kernels that see the map.
    assert len(rows) >= 27 + 9
    for row in rows:
        assert row['GPU'] == f'sm_{capability}'
        assert int(row['stack, B']) == 0, row
        assert int(row['registers']) <= 255, row
        shared = float(row['shared memory, KiB'])
        assert shared <= SHARED_MEMORY[capability], row


@pytest.mark.slow
@pytest.mark.parametrize(
    'capability',
    [pytest.param(x, marks=() if x in FIRST_TIER else pytest.mark.slow) for x in SHARED_MEMORY],
)
def test_no_kernel_beside_the_attention_spills(capability, tmp_path):
    needs_assembler(capability)
    rows = compiled(tmp_path, '--capability', capability, '--variant', 'block')
    assert {row['kernel'] for row in rows} == {
        'norm_forward',
        'norm_backward',
        'convolve',
        'convolve_weight',
        'region_means',
        'route',
        'readers',
    }
    for row in rows:
        assert int(row['stack, B']) == 0, row
        assert int(row['registers']) <= 255, row
        shared = float(row['shared memory, KiB'])
        assert shared <= SHARED_MEMORY[capability], row


@pytest.mark.slow
def test_instructions_per_pair(tmp_path):
    needs_assembler(90)
    rows = compiled(
        tmp_path,
        '--capability',
        90,
        '--variant',
        'cropped',
        'whole, even',
        '--block',
        32,
        '--products',
        'half',
    )
    seen = set()
    for row in rows:
        case = (row['variant'], row['kernel'], int(row['own x list tile'].split(' x ')[0]))
        instructions, registers = FIGURES[case]
        assert float(row['instructions per pair']) <= MARGIN * instructions, row
        assert int(row['registers']) <= MARGIN * registers, row
        seen.add(case)
    assert seen == set(FIGURES)


def test_counts_the_longest_loop():
    """As machine code has it: a branch back, a nop that ends the kernel by
    branching to itself, and each instruction's second line."""
    tool = load_module(ROOT / 'tools' / TOOL)
    code = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;  /* 0x0a00 */
                                                           /* 0x0e40 */
        /*0010*/                   FADD R2, R2, R3 ;       /* 0x0a00 */
        /*0020*/                   FADD R2, R2, R3 ;       /* 0x0a00 */
        /*0030*/              @!P0 BRA 0x60 ;              /* 0x0a00 */
        /*0040*/                   FADD R2, R2, R3 ;       /* 0x0a00 */
        /*0050*/               @P1 BRA 0x10 ;              /* 0x0a00 */
        /*0060*/                   FADD R2, R2, R3 ;       /* 0x0a00 */
        /*0070*/               @P2 BRA 0x60 ;              /* 0x0a00 */
        /*0080*/                   BRA 0x80;               /* 0x0a00 */
"""
    assert tool.longest_loop(code) == 5
