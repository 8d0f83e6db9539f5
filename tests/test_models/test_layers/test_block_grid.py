import pytest
import torch
from attention_loop import assert_equal_with_gradients, attend_by_loop
from timm.models.maxxvit import MaxxVitTransformerCfg, PartitionAttentionCl

from biformer_mm.models.layers.block_grid import BlockGridAttention


@pytest.mark.parametrize('grid', [False, True])
def test_equals_timms_maxvit(grid):
    torch.manual_seed(0)
    cfg = MaxxVitTransformerCfg(
        dim_head=4, window_size=(7, 7), grid_size=(7, 7), rel_pos_type='bias', head_first=False
    )
    theirs = PartitionAttentionCl(8, 'grid' if grid else 'block', cfg).double()
    layer = BlockGridAttention(8, 2, grid=grid).double()
    layer.qkv, layer.proj = theirs.attn.qkv, theirs.attn.proj
    layer.bias.table = theirs.attn.rel_pos.relative_position_bias_table
    assert_equal_with_gradients(layer, theirs._partition_attn, torch.randn(2, 14, 21, 8).double())


@pytest.mark.parametrize('size', [(4, 6), (5, 3), (1, 1), (7, 8)])
@pytest.mark.parametrize('grid', [False, True])
def test_equals_a_loop_that_knows_no_padding(size, grid):
    torch.manual_seed(0)
    layer = BlockGridAttention(8, 2, window_size=3, grid=grid).double()
    lengths = [-(-side // 3) for side in size]  # blocks along each side

    def place(token):
        """The group, and the place in it, along each axis."""
        along = [
            divmod(i, 3) if not grid else divmod(i, length)[::-1]
            for i, length in zip(token, lengths)
        ]
        return list(zip(*along))

    def bias(at, to):
        (_, first), (_, second) = place(at), place(to)
        row, column = (a - b + 2 for a, b in zip(first, second))
        return layer.bias.table[5 * row + column]

    def loop(x):
        out = attend_by_loop(layer, x, lambda at, to: place(at)[0] == place(to)[0], bias)
        return layer.proj(out)

    assert_equal_with_gradients(layer, loop, torch.randn(2, *size, 8).double())


def test_blocks_and_grids_take_turns():
    grids = [BlockGridAttention.for_block(8, 2, 0, block).grid for block in range(4)]
    assert grids == [False, True, False, True]
