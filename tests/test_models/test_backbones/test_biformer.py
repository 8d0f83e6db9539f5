"""The backbone's contract, over its variants."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.utils import digit_version
from torch import nn

from biformer_mm.models import BiFormer

TINY_TEST_ARCH = dict(
    embed_dims=(16, 16, 32, 32),
    depths=(1, 1, 2, 1),
    topks=(1, 4, 16, None),
    mlp_ratio=2,
    head_dim=8,
    stem='conv',
    pos_conv=True,
)
PATCH_ARCH = dict(TINY_TEST_ARCH, stem='patch', pos_conv=False)


def build(**kwargs):
    torch.manual_seed(0)
    return BiFormer(**{'arch': TINY_TEST_ARCH, **kwargs})


@pytest.mark.parametrize(
    'arch, channels, params',
    [
        ('tiny', (64, 128, 256, 512), 13_142_760),
        ('small', (64, 128, 256, 512), 25_536_232),
        ('base', (96, 192, 384, 768), 56_804_968),
        ('stl', (96, 192, 384, 768), 28_372_552),
    ],
)
def test_parameters_of_the_classifiers(arch, channels, params):
    model = BiFormer(arch, out_indices=(3,), out_norm='BN')
    head = nn.Linear(channels[-1], 1000)
    count = sum(p.numel() for m in (model, head) for p in m.parameters())
    assert count == params


def test_built_from_the_registry():
    model = MODELS.build(dict(type='BiFormer', arch=TINY_TEST_ARCH))
    assert isinstance(model, BiFormer)
    layer = MODELS.build(
        dict(type='BiLevelRoutingAttention', embed_dims=8, num_heads=2, num_regions=2, topk=1)
    )
    assert layer(torch.zeros(1, 4, 4, 8)).shape == (1, 4, 4, 8)


@pytest.mark.parametrize('padding', ['legacy', 'masked'])
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (64, 224), (201, 335)])
def test_any_input_size(size, padding):
    model = build(num_regions=16, padding=padding)
    outs = model(torch.randn(2, 3, *size))
    height, width = size
    for out, dims in zip(outs, TINY_TEST_ARCH['embed_dims']):
        if out is outs[0]:
            height, width = -(-height // 2), -(-width // 2)
        height, width = -(-height // 2), -(-width // 2)
        assert out.shape == (2, dims, height, width)
        assert out.isfinite().all()


def test_801x1333():
    with torch.no_grad():
        outs = build(num_regions=16)(torch.randn(1, 3, 801, 1333))
    assert [tuple(out.shape[2:]) for out in outs] == [(201, 334), (101, 167), (51, 84), (26, 42)]


def test_patch_stem_rounds_sizes_down():
    outs = build(arch=PATCH_ARCH)(torch.randn(1, 3, 67, 35))
    assert [tuple(out.shape[2:]) for out in outs] == [(16, 8), (8, 4), (4, 2), (2, 1)]


def test_each_image_is_computed_for_itself():
    model = build().eval()
    x = torch.randn(3, 3, 40, 56)
    for out, alone in zip(model(x), model(x[1:2])):
        torch.testing.assert_close(out[1:2], alone, rtol=1e-4, atol=1e-5)


def test_memory_format_follows_the_input():
    model = build().eval()
    x = torch.randn(2, 3, 64, 96)
    x_last = x.contiguous(memory_format=torch.channels_last)
    for out, last in zip(model(x), model(x_last)):
        assert out.is_contiguous()
        assert last.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    if dtype == torch.float16 and digit_version(torch.__version__) < (2, 3):
        pytest.skip('PyTorch before 2.3 has no fp16 autocast on the CPU')
    model = build(norm_eval=True)
    x = torch.randn(2, 3, 64, 96)
    expected = model(x)
    with torch.autocast('cpu', dtype=dtype):
        outs = model(x)
    for out, exact in zip(outs, expected):
        # Routing may pick another region where two are almost as good.
        error = (out.float() - exact).norm() / exact.norm()
        assert error < 0.05, f'{error:.3f}'
    sum(out.float().square().mean() for out in outs).backward()
    for name, param in model.named_parameters():
        assert param.grad.isfinite().all(), name


def test_bf16_weights():
    outs = build().bfloat16().eval()(torch.randn(1, 3, 64, 64).bfloat16())
    assert all(o.dtype == torch.bfloat16 and o.isfinite().all() for o in outs)


@pytest.mark.parametrize('arch', [TINY_TEST_ARCH, PATCH_ARCH])
@pytest.mark.parametrize('padding', ['legacy', 'masked'])
def test_gradient_reaches_every_parameter(arch, padding):
    model = build(arch=arch, padding=padding, out_indices=(1, 2, 3))
    outs = model(torch.randn(2, 3, 64, 64))
    sum(out.square().sum() for out in outs).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.any(), name


def test_backends_agree():
    model = build(attn_backend='sdpa')
    reference = build(attn_backend='reference')
    x = torch.randn(1, 3, 72, 104)
    for a, b in zip(model(x), reference(x)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_nothing_but_memory():
    plain = build(drop_path_rate=0.5)
    saving = copy.deepcopy(plain)
    saving.with_cp = True
    x = torch.randn(4, 3, 64, 64)
    grads, saved_bytes = [], []
    for model in (plain, saving):
        torch.manual_seed(1)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(t.nbytes) or t, lambda t: t
        ):
            outs = model(x)
        saved_bytes.append(sum(saved))
        sum(out.square().sum() for out in outs).backward()
        grads.append([p.grad for p in model.parameters()] + list(outs))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)
    assert saved_bytes[1] < saved_bytes[0] / 2


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages(frozen_stages):
    model = build(frozen_stages=frozen_stages, drop_path_rate=0.1).train()
    parts = [[model.stem], [model.stages[0]]]
    parts += [[model.downsamples[i], model.stages[i + 1]] for i in range(3)]
    for i, part in enumerate(parts):
        for module in part:
            frozen = i <= frozen_stages
            assert all(p.requires_grad != frozen for p in module.parameters())
            assert all(m.training != frozen for m in module.modules())
    assert all(p.requires_grad for p in model.out_norms.parameters())
    sum(o.sum() for o in model(torch.randn(2, 3, 64, 64))).backward()


@pytest.mark.parametrize('norm_eval', [False, True])
def test_norm_eval(norm_eval):
    model = build(norm_eval=norm_eval).train()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 3, 64, 64))
    changed = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
    assert bool(changed) == (not norm_eval), changed
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.training == (not norm_eval) for m in norms)
    assert all(p.requires_grad for m in norms for p in m.parameters())
    assert model.stages[0][0].training


def test_norm_cfg():
    model = build(norm_cfg=dict(type='SyncBN', requires_grad=False, eps=1e-3))
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 5 and all(m.eps == 1e-3 for m in norms)
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    with pytest.raises(ValueError, match="one of .'BN', 'SyncBN'.; got 'IN'"):
        build(norm_cfg=dict(type='IN'))


def test_drop_path_rises_linearly_over_all_blocks():
    model = build(drop_path_rate=0.4)
    rates = [b.drop_path.rate for stage in model.stages for b in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize('out_indices', [(0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize('arch', [TINY_TEST_ARCH, PATCH_ARCH])
def test_stages_after_the_last_output_are_not_built(arch, out_indices):
    whole = build(arch=arch, drop_path_rate=0.4)
    short = build(arch=arch, drop_path_rate=0.4, out_indices=out_indices)
    count = len(out_indices)
    assert (len(short.stages), len(short.downsamples)) == (count, count - 1)
    short.load_state_dict(whole.state_dict(), strict=True)
    x = torch.randn(4, 3, 64, 64)
    for mode in (True, False):
        found, expected = [], []
        for model, outs in ((short, found), (whole, expected)):
            torch.manual_seed(1)  # of stochastic depth
            outs += model.train(mode)(x)
        for out, right in zip(found, expected[:count]):
            assert torch.equal(out, right)
    rates = [b.drop_path.rate for stage in short.stages for b in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3][: len(rates)])
    sum(out.square().sum() for out in short.train()(x)).backward()
    for name, param in short.named_parameters():
        assert param.grad is not None, name


def test_unbuilt_weights_are_of_stages_that_the_arch_has():
    parts = ('stem.0', 'downsamples.1.0', 'stages.2.0', 'downsamples.2.0', 'stages.3.0.norm1')
    names = [f'{part}.weight' for part in (*parts, 'stages.4.0.norm1', 'out_norms.3')]
    assert build().unbuilt_weights(names) == []
    short = build(out_indices=(0, 2))
    assert short.unbuilt_weights(names) == [names[3], names[4], names[6]]
    named = [f'backbone.{name}' for name in names]
    assert short.unbuilt_weights(named, 'backbone.') == [named[3], named[4], named[6]]
    assert short.unbuilt_weights(named) == []


def test_drop_path_drops_samples_and_keeps_the_mean():
    from biformer_mm.models.layers.basic import DropPath

    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (out == out[:, :1, :1]).all()
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x


def test_out_norms():
    x = torch.randn(2, 3, 64, 64)
    raw = build(out_norm=None).eval()
    normed = build(out_indices=(1, 3)).eval()
    maps = raw(x)
    assert len(raw.out_norms) == 0 and set(normed.out_norms) == {'1', '3'}
    for out, i in zip(normed(x), (1, 3)):
        mean = maps[i].mean(1, keepdim=True)
        var = maps[i].var(1, unbiased=False, keepdim=True)
        torch.testing.assert_close(out, (maps[i] - mean) / (var + 1e-6).sqrt())
    classifier = build(out_norm='BN', out_indices=(3,)).eval()
    torch.testing.assert_close(classifier(x)[0], maps[3] / (1 + 1e-5) ** 0.5)


def test_num_regions_and_topks_per_stage():
    model = build(num_regions=(8, 'auto', 2, 1), topks=(2, 2, 2, 1))
    layers = [stage[0].attn for stage in model.stages]
    assert [m.num_regions for m in layers] == [8, 'auto', 2, 1]
    assert [m.topk for m in layers] == [2, 2, 2, 1]
    assert model(torch.randn(1, 3, 64, 64))[3].shape == (1, 32, 2, 2)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='large'), "one of .'tiny', 'small', 'base', 'stl'. or a dict; got 'large'"),
        (dict(arch=dict(TINY_TEST_ARCH, window=7)), r"unknown: \['window'\]"),
        (dict(arch=dict(base='small', window=7)), r"unknown: \['window'\]"),
        (dict(arch=dict(base='large')), "with one as its base; got 'large'"),
        (dict(arch=dict(base=['small'])), r"with one as its base; got \['small'\]"),
        (
            dict(arch={k: v for k, v in TINY_TEST_ARCH.items() if k != 'depths'}),
            r"missing: \['depths'\]",
        ),
        (dict(arch=dict(TINY_TEST_ARCH, stem='linear')), "one of .'conv', 'patch'.; got 'linear'"),
        (
            dict(arch=dict(TINY_TEST_ARCH, head_dim=12)),
            'multiple of head_dim; got embed_dims=16 and head_dim=12',
        ),
        (
            dict(arch=dict(TINY_TEST_ARCH, embed_dims=(16, 16, 32, 36))),
            'got embed_dims=36 and num_heads=8',
        ),
        (dict(topks=(1, 4, 50, None)), 'got topk=50 with num_regions=7'),
        (dict(topks=(0, 4, 16, None)), 'got topk=0'),
        (dict(topks=(1, 4)), 'one entry per stage, 4; got .1, 4.'),
        (dict(num_regions=(7, 7)), 'one entry per stage, 4; got .7, 7.'),
        (dict(num_regions=0), 'at least 1, or .auto.; got .0, 0, 0, 0.'),
        (dict(out_indices=(1, 4)), 'between 0 and 3; got .1, 4.'),
        (dict(out_indices=(-1, 2)), 'between 0 and 3; got .-1, 2.'),
        (dict(out_indices=()), 'between 0 and 3; got ..'),
        (dict(out_norm='GN'), "'LN', 'BN' or None; got 'GN'"),
        (dict(out_norm='BN', out_indices=(0, 1)), 'must end in 3; got .0, 1.'),
        (dict(frozen_stages=5), 'between -1 .none. and 4; got 5'),
        (dict(drop_path_rate=1.0), r'in \[0, 1\); got 1.0'),
        (dict(padding='same'), "got 'same'"),
        (dict(attn_backend='cuda'), "one of 'auto', .*; got 'cuda'"),
        (dict(arch=['small']), r"or a dict; got \['small'\]"),
        (
            dict(init_cfg=[dict(type='Pretrained', checkpoint='a.pth')]),
            'init_cfg must be one dict or None',
        ),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


@pytest.mark.parametrize('shape', [(3, 64, 64), (1, 4, 64, 64), (1, 3, 31, 64), (1, 1, 3, 64, 64)])
def test_wrong_input(shape):
    with pytest.raises(ValueError) as error:
        build()(torch.zeros(shape))
    assert str(error.value) == (
        f'the input must be (N, 3, H, W) with H and W at least 32; got {shape}'
    )
