"""A run whose BiFormer is compiled block by block."""

import logging
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from biformer_mm.engine.hooks.compile_blocks_hook import CompileBlocksHook, set_compile
from biformer_mm.engine.hooks.nonfinite_loss_hook import find_origin
from biformer_mm.engine.runner.guarded_runner import guarded
from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError

ARCH = dict(
    embed_dims=(8,), depths=(2,), topks=(1,), mlp_ratio=1, head_dim=8, stem='patch', pos_conv=False
)
NUMBERS = count()


@MODELS.register_module()
class BackboneModel(BaseModel):
    """A BiFormer, and the mean of its map as the loss."""

    def __init__(self):
        super().__init__()
        self.backbone = BiFormer(ARCH, num_regions=1, out_indices=(0,))

    def forward(self, inputs, data_samples=None, mode='loss'):
        (out,) = self.backbone(torch.stack(inputs))
        return dict(loss=out.mean())


@pytest.fixture
def compiled(monkeypatch):
    """The backbones whose blocks are compiled; they stay as they are."""
    found = []
    monkeypatch.setattr(BiFormer, 'compile_blocks', lambda self: found.append(self))
    return found


@pytest.mark.parametrize(
    'asked, given', [(False, 'blocks'), (True, None), (True, True), (True, 'blocks')]
)
def test_becomes_a_hook(asked, given):
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook')]))
    if given is not None:
        cfg.compile = given
    set_compile(cfg, asked)
    assert 'compile' not in cfg  # FlexibleRunner would refuse a text
    expected = [dict(type='EMAHook'), dict(type='CompileBlocksHook')]
    assert cfg.custom_hooks == expected
    set_compile(cfg, asked)
    assert cfg.custom_hooks == expected


@pytest.mark.parametrize(
    'given',
    [
        dict(),
        dict(compile=None),
        dict(compile=False),
        dict(compile=True),
        dict(compile=dict(backend='eager')),
    ],
)
def test_what_is_mmengines_stays(given):
    cfg = Config(given)
    set_compile(cfg)
    assert cfg.to_dict() == given


@pytest.mark.parametrize('given', ['block', 'True', 1, ['blocks']])
def test_anything_else_is_refused(given):
    with pytest.raises(
        UsageError,
        match="compile must be 'blocks', True, False or a dict of torch.compile's options; got ",
    ):
        set_compile(Config(dict(compile=given)))


@pytest.mark.slow
@pytest.mark.parametrize('runner_type', ['Runner', 'FlexibleRunner'])
def test_runs_compile_before_they_train(runner_type, compiled, tmp_path):
    cfg = Config(
        dict(
            model=dict(type='BackboneModel'),
            work_dir=str(tmp_path),
            train_dataloader=dict(
                dataset=[dict(inputs=torch.ones(3, 32, 32))],
                sampler=dict(type='DefaultSampler', shuffle=False),
                batch_size=1,
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            # MMEngine keeps a logger for each name.
            experiment_name=f'compile_{next(NUMBERS)}',
            launcher='none',
            default_scope='mmengine',
            env_cfg=dict(),
            compile='blocks',
        ),
        filename=__file__,
    )
    set_compile(cfg)
    runner = guarded(runner_type).from_cfg(cfg)
    assert compiled == []
    runner.train()
    assert compiled == [runner.model.backbone] and runner.iter == 1


def runner_of(model):
    return SimpleNamespace(model=model, logger=logging.getLogger('test'))


def test_each_backbone_of_a_wrapped_model_is_compiled(compiled):
    first, second = BackboneModel(), BackboneModel()
    wrapped = nn.ModuleDict(dict(module=nn.ModuleList([first, nn.Linear(1, 1), second])))
    CompileBlocksHook().before_run(runner_of(wrapped))
    assert compiled == [first.backbone, second.backbone]


def test_a_model_without_biformer_is_refused():
    with pytest.raises(
        UsageError,
        match="^compile='blocks' needs a BiFormer in the model, and there is none; leave it out$",
    ):
        CompileBlocksHook().before_run(runner_of(nn.Linear(1, 1)))


def test_an_older_pytorch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, '__version__', torch.torch_version.TorchVersion('2.5.1'))
    with pytest.raises(
        UsageError, match="^compile='blocks': .* needs PyTorch 2.6 or later; got 2.5.1$"
    ):
        CompileBlocksHook().before_run(runner_of(BackboneModel()))


@pytest.mark.skipif(torch.__version__ < (2, 6), reason='PyTorch before 2.6')
def test_source_of_a_nan_in_a_compiled_block():
    """By hooks that are added after the block was compiled."""
    model = BackboneModel()
    batch = dict(inputs=[torch.rand(3, 32, 32)], data_samples=None)
    torch._dynamo.reset()
    model.backbone.compile_blocks(backend='eager')
    with torch.no_grad():  # as in the search
        model(batch['inputs'])
    block = model.backbone.stages[0][1]
    nn.init.constant_(block.attn.proj.weight, float('nan'))
    assert 'backbone.stages.0.1.attn.proj' in find_origin(model, batch)
