import mmpretrain.models
import pytest
import timm.models.swin_transformer
import torch
from attention_loop import assert_equal_with_gradients, attend_by_loop
from torch import nn

from biformer_mm.models import BiFormer
from biformer_mm.models.layers.shifted_window import ShiftedWindowAttention


@pytest.mark.parametrize('shift', [0, 1, 2])
@pytest.mark.parametrize('size', [(6, 9), (3, 5), (2, 3), (5, 4), (1, 1), (4, 3)])
def test_equals_a_loop_that_knows_no_padding(size, shift):
    torch.manual_seed(0)
    layer = ShiftedWindowAttention(8, 2, window_size=3, shift=shift).double()
    shifts = [shift if side > 3 else 0 for side in size]

    def window(token):
        # The first window of a shifted side has only `shift` tokens, and so may the last.
        return [(i - by) // 3 for i, by in zip(token, shifts)]

    def bias(at, to):
        row, column = (a - b + 2 for a, b in zip(at, to))
        return layer.bias.table[5 * row + column]

    def loop(x):
        return layer.proj(attend_by_loop(layer, x, lambda at, to: window(at) == window(to), bias))

    assert_equal_with_gradients(layer, loop, torch.randn(2, *size, 8).double())


class InSwin(nn.Module):
    """A block of our network in the place of another's."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, hw_shape=None):
        if hw_shape is None:
            return self.block(x)
        return self.block(x.unflatten(1, hw_shape)).flatten(1, 2)


def timms_swin():
    net = timm.models.swin_transformer.SwinTransformer(
        embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), num_classes=5, drop_path_rate=0
    )

    def parts(block):
        attn = block.attn
        return (
            (attn.qkv, attn.proj, attn.relative_position_bias_table),
            (block.norm1, block.norm2, block.mlp.fc1, block.mlp.fc2),
        )

    return net, [stage.blocks for stage in net.layers], parts


def mmpretrains_swin():
    arch = dict(embed_dims=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8])
    net = mmpretrain.models.SwinTransformer(arch, drop_path_rate=0)
    net.init_weights()

    def parts(block):
        attn, layers = block.attn.w_msa, block.ffn.layers
        return (
            (attn.qkv, attn.proj, attn.relative_position_bias_table),
            (block.norm1, block.norm2, layers[0][0], layers[1]),
        )

    return net, [stage.blocks for stage in net.stages], parts


@pytest.mark.parametrize('make', [timms_swin, mmpretrains_swin])
def test_blocks_of_the_network_stand_in_for_swins(make):
    """With the same weights all outputs and gradients are the same."""
    torch.manual_seed(0)
    swin, stages, parts = make()
    swin.double().train()
    arch = dict(
        base='stl',
        embed_dims=(16, 32, 64, 128),
        depths=(2, 2, 2, 2),
        head_dim=16,
        attention='shifted_window',
    )
    ours = BiFormer(arch).double()
    for module in ours.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # Swin's
    x = torch.randn(1, 3, 224, 224, dtype=torch.double)

    def run():
        swin.zero_grad()
        outputs = swin(x)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        sum(out.square().sum() for out in outputs).backward()
        return [*outputs, *(p.grad.clone() for p in shared)]

    shared = []  # parameters that both networks have
    for their_blocks, our_blocks in zip(stages, ours.stages):
        for theirs, block in zip(their_blocks, our_blocks):
            (qkv, proj, table), others = parts(theirs)
            block.attn.qkv, block.attn.proj, block.attn.bias.table = qkv, proj, table
            layers = block.norm1, block.norm2, block.mlp.fc1, block.mlp.fc2
            for layer, source in zip(layers, others):
                layer.weight, layer.bias = source.weight, source.bias
            shared += block.parameters()
    expected = run()
    for their_blocks, our_blocks in zip(stages, ours.stages):
        for i, block in enumerate(our_blocks):
            their_blocks[i] = InSwin(block)
    torch.testing.assert_close(run(), expected)


def test_every_other_block_is_shifted():
    shifts = [ShiftedWindowAttention.for_block(8, 2, 0, block).shift for block in range(4)]
    assert shifts == [0, 3, 0, 3]


def test_shift_must_be_below_the_window():
    with pytest.raises(ValueError, match='shift must be below window_size; got shift=7'):
        ShiftedWindowAttention(8, 2, shift=7)
