"""What the strategy for FSDP refuses; tests/test_distributed/test_fsdp.py trains."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from biformer_mm.engine.runner import launch, sharding
from biformer_mm.engine.runner.sharding import WholeFSDPStrategy


def test_checkpoints_must_be_one_file():
    with pytest.raises(ValueError, match="state_dict_cfg must be 'full'.*got 'local'"):
        WholeFSDPStrategy(state_dict_cfg='local')


def test_parameters_must_stay_apart():
    with pytest.raises(ValueError, match='use_orig_params must be True'):
        WholeFSDPStrategy(model_wrapper=dict(use_orig_params=False))


def test_cpus_need_a_pytorch_that_can(monkeypatch):
    monkeypatch.setattr(sharding, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(torch, '__version__', '2.1.2')
    with pytest.raises(ValueError, match='needs PyTorch 2.2; got 2.1.2; use DDP'):
        WholeFSDPStrategy()


def test_clipping_has_the_arguments_of_fsdp():
    strategy = object.__new__(WholeFSDPStrategy)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1)
    for clip in (dict(max_norm=1, norm_type=1), dict(type='value', clip_value=1), None):
        wrapper = OptimWrapper(optimizer, clip_grad=clip)
        built = strategy.build_optim_wrapper(wrapper, nn.Linear(2, 2))
        by_norm = 'max_norm' in (clip or {})
        assert ('_clip_grad' in vars(built)) == by_norm
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=1, error_if_nonfinite=True))
    with pytest.raises(ValueError, match='takes max_norm and norm_type only.*error_if_nonfinite'):
        strategy.build_optim_wrapper(wrapper, nn.Linear(2, 2))


@pytest.mark.parametrize(
    'kind, built', [('FSDPStrategy', 'WholeFSDPStrategy'), ('DDPStrategy', 'DDPStrategy')]
)
def test_it_stands_in_for_mmengines(kind, built, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(launch, 'guarded', lambda kind, scope, allowed: kind)
    monkeypatch.setattr(launch.Runner, 'from_cfg', lambda cfg: cfg)
    cfg = Config(dict(launcher='pytorch', runner_type=launch.Runner, strategy=dict(type=kind, a=1)))
    assert launch.build_runner(cfg).strategy == dict(type=built, a=1)
