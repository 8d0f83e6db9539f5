"""examples/flop_counters/: what each counter counts of BiFormer-T, and what it leaves out."""

import pytest
from mmengine.fileio import load
from tool_runner import ROOT, load_module

example = load_module(ROOT / 'examples' / 'flop_counters' / 'count.py')

MODELS = load(ROOT / 'configs' / 'metafile.yml')['Models']
(EXPECTED,) = (m['Metadata']['FLOPs'] for m in MODELS if m['Name'] == 'biformer_t_in1k')
# Multiplications of attention's two products. Routed stages: blocks, pixels, channels, and the
# regions of 49 that a pixel attends to.
STAGES = [(2, 56**2, 64, 1), (2, 28**2, 128, 4), (8, 14**2, 256, 16)]
ROUTED = sum(
    blocks * 2 * pixels * channels * topk * pixels // 49
    for blocks, pixels, channels, topk in STAGES
)
FULL = 2 * 2 * 49 * 512 * 49
# What the default backend's fused attention hides from a counter.
HIDDEN = {
    'biformer_mm `make_counter`': 0,
    'torch `FlopCounterMode`': FULL,
    'Lightning `measure_flops`': FULL,
    'fvcore `FlopCountAnalysis`': 0,
    "ptflops `backend='aten'`": ROUTED + FULL,
    'thop `profile`': ROUTED,
}
EXACT = list(HIDDEN)[:3]  # others count norms, too
WRONG = ["ptflops `backend='pytorch'`", 'torchinfo `summary`']


def test_each_counter_is_tested():
    assert sorted(example.COUNTERS) == sorted([*HIDDEN, *WRONG])


@pytest.mark.parametrize('counter', HIDDEN)
def test_counter_knows_plain_products_and_not_all_fused_ones(counter):
    plain = example.count('biformer_tiny', counter, 'reference')
    if counter in EXACT:
        assert plain == EXPECTED
    else:
        assert EXPECTED < plain < 1.01 * EXPECTED
    assert example.count('biformer_tiny', counter) == plain - HIDDEN[counter]


@pytest.mark.parametrize('counter', WRONG)
def test_counter_misses_more_than_attention(counter):
    plain = example.count('biformer_tiny', counter, 'reference')
    assert example.count('biformer_tiny', counter) == plain < EXPECTED - ROUTED - FULL
