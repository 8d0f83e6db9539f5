"""examples/{lightning,accelerate}_training/: the same weights as of a plain loop."""

import copy
import math
import sys

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tool_runner import ROOT, load_module
from torch.utils.data import DataLoader, TensorDataset

from biformer_mm.datasets import make_shapes
from biformer_mm.timm import BiFormerClassifier

ARCH = dict(base='tiny', embed_dims=(32, 64, 96, 128), depths=(1, 1, 1, 1))
with_lightning = load_module(ROOT / 'examples' / 'lightning_training' / 'train.py')
with_accelerate = load_module(ROOT / 'examples' / 'accelerate_training' / 'train.py')


@pytest.fixture(autouse=True)
def no_accelerator():
    """Forget the accelerator of the test before, which all of a process share."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BiFormerClassifier(ARCH, num_classes=4)


@pytest.fixture
def loader():
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(10, 3, 64, 64), torch.arange(10) % 4), 2)


def train_lightning(model, loader, **options):
    """Train for an epoch; return the last loss."""
    trainer = pl.Trainer(
        accelerator='cpu', max_epochs=1, logger=False, enable_checkpointing=False, **options
    )
    trainer.fit(with_lightning.Classifier(model), loader)
    return trainer.callback_metrics['loss'].item()


def train_accelerate(model, loader, **options):
    """Train for an epoch; return the last loss."""
    accelerator = Accelerator(cpu=True, **options)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    prepared = accelerator.prepare(model, optimizer, loader)
    return with_accelerate.train_epoch(accelerator, *prepared)


@pytest.mark.parametrize('train', [train_lightning, train_accelerate])
def test_weights_are_those_of_a_plain_loop(train, model, loader):
    expected = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(expected.parameters(), 1e-3, weight_decay=0.05)
    for images, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(expected(images), labels)
        loss.backward()
        optimizer.step()
    assert train(model, loader) == pytest.approx(loss.item(), abs=1e-5)
    weights = model.state_dict()
    for name, x in expected.state_dict().items():
        torch.testing.assert_close(weights[name], x, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ('train', 'precision'),
    [
        (train_lightning, dict(precision='bf16-mixed')),
        (train_accelerate, dict(mixed_precision='bf16')),
    ],
)
def test_mixed_precision_trains_all_weights(train, precision, model, loader):
    before = {name: x.clone() for name, x in model.named_parameters()}
    assert math.isfinite(train(model, loader, **precision))
    for name, x in model.named_parameters():
        assert x.dtype == torch.float32 and x.isfinite().all(), name
        assert not torch.equal(x, before[name]), name


@pytest.mark.parametrize('example', [with_lightning, with_accelerate])
def test_script_trains_on_folders_of_pictures(example, tmp_path, monkeypatch, capsys):
    make_shapes(tmp_path / 'data', 'imagenet', 8, 4, image_size=64)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', 'data', '--size', '64'])
    example.main()
    assert 'accuracy' in capsys.readouterr().out
