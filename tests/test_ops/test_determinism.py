"""Two trainings from one seed end with the same bits; run_gpu.sh runs this on
GPUs, where only the fused kernel promises it, in PyTorch's deterministic mode.
"""

import pytest
import torch
from tolerances import assert_within, attend, make_inputs

from biformer_mm.ops import available_backends
from biformer_mm.ops.dispatch import _BACKENDS

if torch.cuda.is_available():
    RUNS = [('cuda', 'triton', None), ('cuda', 'triton', torch.bfloat16)]
else:
    RUNS = [('cpu', name, None) for name in ('reference', 'sdpa', 'cpu')]


@pytest.fixture
def deterministic(monkeypatch):
    """PyTorch's mode, in which an op without a deterministic algorithm raises
    and memory that nobody filled is nan."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def skip_unless_served(backend, device):
    if backend not in available_backends():
        pytest.skip(f'{backend} is not there')
    token = torch.zeros(1, 1, 1, 1, 1, 16, device=device)
    reason = _BACKENDS[backend].unsupported_reason(token, 1)
    if reason:
        pytest.skip(reason)


def train(device, backend, amp, seed, steps=5):
    """Losses and weights of a small backbone."""
    from biformer_mm.models import BiFormer

    torch.manual_seed(seed)
    model = BiFormer(
        dict(
            embed_dims=(32, 64, 64),
            depths=(1, 1, 1),
            topks=(1, 4, None),
            mlp_ratio=2,
            head_dim=32,
            stem='conv',
            pos_conv=True,
        ),
        num_regions=4,
        out_indices=(0, 1, 2),
        drop_path_rate=0.3,
        attn_backend=backend,
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(steps):
        # Maps of 25 x 21 tokens: no whole regions.
        images = torch.randn(2, 3, 100, 84).to(device)
        with torch.autocast(device, dtype=amp or torch.bfloat16, enabled=amp is not None):
            loss = sum(x.float().sigmoid().mean() for x in model(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.parametrize('device, backend, amp', RUNS)
def test_the_same_seed_gives_the_same_training(device, backend, amp, deterministic):
    pytest.importorskip('mmengine')
    skip_unless_served(backend, device)
    losses, weights = train(device, backend, amp, seed=0)
    again, same = train(device, backend, amp, seed=0)
    other, _ = train(device, backend, amp, seed=1)
    assert losses == again and not set(losses) & set(other)
    for name, value in weights.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, same[name]), name


@pytest.mark.first_tier(3)
@pytest.mark.parametrize('name', available_backends())
@pytest.mark.parametrize('valid_size', [None, (7, 5), (3, 8)])
@pytest.mark.parametrize('attend_padding', [False, True])
def test_nobody_reads_what_nobody_filled(name, valid_size, attend_padding, deterministic):
    device = 'cuda' if torch.cuda.is_available() and name != 'cpu' else 'cpu'
    skip_unless_served(name, device)
    case = 1, 4, 4, 2, 2, 1, 16, 3, valid_size, attend_padding
    assert_within(name, case, device, torch.float32)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_kernels_sum_in_one_order(dtype):
    """On a whole GPU, where programs come and go as they like."""
    if not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    pytest.importorskip('triton', minversion='3.0')
    case = 4, 8, 8, 14, 14, 4, 32, 16, (110, 107), True
    qkv, index, options = make_inputs(case, 'cuda', dtype)
    first = attend(qkv, index, options, 'triton')
    for _ in range(20):
        for name, value in attend(qkv, index, options, 'triton').items():
            assert torch.equal(value, first[name]), name


def test_cpus_sum_in_one_order(backend, device):
    """Of several threads, which add to the gradients of the same regions."""
    if device != 'cpu':
        pytest.skip("PyTorch's own kernels promise it on CPUs alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        qkv, index, options = make_inputs(
            (1, 8, 8, 7, 7, 2, 32, 8, None, False), device, torch.float32
        )
        first = attend(qkv, index, options, backend)
        for _ in range(5):
            for name, value in attend(qkv, index, options, backend).items():
                assert torch.equal(value, first[name]), name
    finally:
        torch.set_num_threads(threads)
