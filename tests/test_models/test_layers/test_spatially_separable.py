import pytest
import torch
from attention_loop import assert_equal_with_gradients, attend_by_loop
from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn

from biformer_mm.models.layers import build_attention
from biformer_mm.models.layers.spatially_separable import SpatiallySeparableAttention


def assert_equal_to_timm(layer, theirs, copied, size):
    """Hold outputs and gradients against those of a timm layer.

    Args:
        layer: Ours.
        theirs: timm's, whose parameters get the values of ours.
        copied: The value or gradient of each parameter of `theirs`, made from those of ours.
        size: (H, W).
    """
    theirs.load_state_dict(copied({name: p.detach() for name, p in layer.named_parameters()}))
    ours = torch.randn(2, *size, layer.embed_dims, dtype=torch.double).requires_grad_()
    x = ours.detach().flatten(1, 2).requires_grad_()
    expected = theirs(x, size)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    out = layer(ours)
    out.backward(upstream.view_as(out))
    torch.testing.assert_close(out.flatten(1, 2), expected)
    torch.testing.assert_close(ours.grad.flatten(1, 2), x.grad)
    torch.testing.assert_close(
        copied({name: p.grad for name, p in layer.named_parameters()}),
        {name: p.grad for name, p in theirs.named_parameters()},
    )


def global_names(named):
    renamed = {}
    for name, x in named.items():
        kind, end = name.rsplit('.', 1)
        if kind == 'qkv':
            renamed[f'q.{end}'], renamed[f'kv.{end}'] = x.tensor_split([len(x) // 3])
        else:
            renamed[{'sub_sample': 'sr'}.get(kind, kind) + f'.{end}'] = x
    return renamed


@pytest.mark.parametrize('window_size, size', [(7, (7, 14)), (2, (6, 4))])
def test_windows_equal_timms(window_size, size):
    torch.manual_seed(0)
    layer = SpatiallySeparableAttention(12, 3, window_size).double()
    theirs = LocallyGroupedAttn(12, 3, ws=window_size).double()
    assert_equal_to_timm(layer, theirs, dict, size)


@pytest.mark.parametrize('ratio', [8, 4, 2, 1])
@pytest.mark.parametrize('size', [(8, 16), (9, 15)])
def test_sub_sampled_map_equals_timms(ratio, size):
    torch.manual_seed(0)
    layer = SpatiallySeparableAttention(12, 3, ratio=ratio).double()
    if ratio > 1:
        torch.nn.init.normal_(layer.norm.weight)
        torch.nn.init.normal_(layer.norm.bias)
    theirs = GlobalSubSampleAttn(12, 3, sr_ratio=ratio).double()
    assert_equal_to_timm(layer, theirs, global_names, size)


@pytest.mark.parametrize('size', [(1, 1), (2, 5), (4, 3), (3, 7)])
def test_padded_windows_equal_a_loop(size):
    """timm attends to the padding, this layer does not."""
    torch.manual_seed(0)
    layer = SpatiallySeparableAttention(8, 2, window_size=3).double()

    def loop(x):
        def same_window(at, to):
            return (at[0] // 3, at[1] // 3) == (to[0] // 3, to[1] // 3)

        return layer.proj(attend_by_loop(layer, x, same_window))

    assert_equal_with_gradients(layer, loop, torch.randn(2, *size, 8, dtype=torch.double))


@pytest.mark.parametrize('size', [(3, 2), (3, 6)])
def test_map_smaller_than_the_kernel_is_extended_by_zeros(size):
    torch.manual_seed(0)
    layer = SpatiallySeparableAttention(8, 2, ratio=4).double()
    x = torch.randn(1, *size, 8, dtype=torch.double)
    extended = torch.zeros(1, 4, 4, 8, dtype=torch.double)
    extended[:, :3, : size[1]] = x[:, :, :4]
    kernel = layer.sub_sample.weight
    token = layer.norm(torch.einsum('nhwc,ochw->no', extended, kernel) + layer.sub_sample.bias)
    value = layer.qkv(token)[:, None, None, 16:]  # the only token, so its weight is 1
    torch.testing.assert_close(layer(x), layer.proj(value.expand_as(x)))


def test_blocks_alternate_in_the_swin_layout():
    def ratio_and_window(stage, block):
        heads = 3 * 2**stage
        options = dict(stage=stage, block=block, options={})
        layer = build_attention('spatially_separable', 32 * heads, heads, **options)
        return layer.ratio, layer.window_size

    found = [[ratio_and_window(stage, block) for block in range(3)] for stage in range(4)]
    assert found == [[(None, 7), (ratio, 7), (None, 7)] for ratio in (8, 4, 2, 1)]


@pytest.mark.parametrize('options', [dict(window_size=0), dict(ratio=0), dict(ratio=1.5)])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SpatiallySeparableAttention(8, 2, **options)
