"""Parameters that a distributed training does not use are named in one line."""

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from biformer_mm.engine.runner.unused_parameters import naming_unused_parameters
from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError


@pytest.fixture(autouse=True)
def process_group():
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Model(nn.Module):
    """Three heads, of which one does not take part in the loss."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.first, self.unread, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.last.weight = self.first.weight  # PyTorch counts it once

    def forward(self, x):
        self.unread(x)
        return self.last(self.first(self.frozen(x)))


def train(model, x, steps=2):
    """Train with SGD, as errors about the first step are raised in the second."""
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    with naming_unused_parameters(lambda: parallel):
        for _ in range(steps):
            outs = parallel(x)
            sum(out.square().mean() for out in outs).backward()
            optimizer.step()
            optimizer.zero_grad()


def test_unused_parameters_are_named():
    with pytest.raises(UsageError) as error:
        train(Model(), torch.randn(2, 4))
    assert 'no gradient reached unread; ' in str(error.value)
    assert str(error.value).endswith('or set find_unused_parameters=True')
    assert '\n' not in str(error.value)


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match='must match|cannot be multiplied'):
        train(Model(), torch.randn(2, 5))


def test_a_backbone_uses_all_of_its_parameters():
    arch = dict(
        embed_dims=(8, 8, 8, 8),
        depths=(1, 1, 1, 1),
        topks=(1, 2, 4, None),
        mlp_ratio=2,
        head_dim=8,
        stem='conv',
        pos_conv=True,
    )
    model = BiFormer(arch, num_regions=2, out_indices=(0, 2))
    train(model, torch.randn(2, 3, 64, 64))  # or it raises
